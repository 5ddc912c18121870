import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from images.augmentation import (
    crop_images,
    crop_labels,
    crop_maps,
    jitter_colours,
    normalise,
    random_crops,
    random_flips,
    snapped,
    to_bytes,
)

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
NO_FLIP = torch.tensor([False])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(batch, height, width):
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=seeded())


def crops(batch, *, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), aspect=1.0, seed=0):
    return random_crops(batch, scale=scale, ratio=ratio, aspect=torch.full((batch,), aspect), generator=seeded(seed))


@pytest.mark.parametrize("aspect", [1.0, 0.4, 1.5, 3.0])
def test_random_crops__follows_the_law_of_random_resized_crop(aspect):
    from torchvision.transforms import RandomResizedCrop

    scale, ratio, height = (0.2, 1.0), (3 / 4, 4 / 3), 2000
    picture = torch.empty(1, height, round(height * aspect))
    torch.manual_seed(0)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(picture, scale, ratio) for _ in range(2000)], dtype=torch.float64
    )
    theirs /= torch.tensor([height, height * aspect, height, height * aspect])
    ours = crops(20000, scale=scale, ratio=ratio, aspect=aspect).double()
    for column in range(4):
        levels = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
        assert torch.allclose(ours[:, column].quantile(levels), theirs[:, column].quantile(levels), atol=0.04)
    assert ours.prod(dim=1).isfinite().all()


@pytest.mark.parametrize("rows", [slice(2, 5), torch.tensor([0, 1, 5, 6])])
def test_random_crops__of_some_rows_are_theirs_in_the_whole_batch(rows):
    aspect = torch.tensor([0.4, 1.0, 3.0, 0.7, 1.2, 2.0, 0.5])
    given = {"scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3)}
    whole = random_crops(7, **given, aspect=aspect, generator=seeded())
    assert torch.equal(random_crops(7, **given, aspect=aspect[rows], generator=seeded(), rows=rows), whole[rows])


def test_random_crops__stay_inside_the_image_and_in_range():
    boxes = crops(5000, aspect=0.7)
    top, left, height, width = boxes.unbind(1)
    assert (boxes >= 0).all() and (top + height <= 1 + 1e-6).all() and (left + width <= 1 + 1e-6).all()
    assert (height * width >= 0.2 - 1e-5).all()
    pixel_aspect = width * 0.7 / height
    assert (pixel_aspect > 3 / 4 - 1e-4).all() and (pixel_aspect < 4 / 3 + 1e-4).all()


def test_random_crops__takes_the_largest_centred_box_when_none_fits():
    boxes = crops(3, scale=(1.0, 1.0), aspect=4.0)
    assert torch.allclose(boxes, torch.tensor([0.0, 1 / 3, 1.0, 1 / 3]).expand(3, 4))
    boxes = crops(3, scale=(1.0, 1.0), aspect=0.25)
    assert torch.allclose(boxes, torch.tensor([1 / 3, 0.0, 1 / 3, 1.0]).expand(3, 4))
    boxes = crops(3, scale=(1.0, 1.0), ratio=(1.0, 1.0), aspect=1.0)
    assert torch.allclose(boxes, WHOLE.expand(3, 4))


@pytest.mark.parametrize("changed", [{"scale": (0.0, 1.0)}, {"scale": (0.5, 1.1)}, {"ratio": (2.0, 1.0)}])
def test_random_crops__refuses_impossible_ranges(changed):
    with pytest.raises(ValueError, match="expected"):
        crops(2, **changed)


def test_random_views__depend_on_the_generator_alone():
    assert torch.equal(crops(9, seed=3), crops(9, seed=3)) and not torch.equal(crops(9, seed=3), crops(9, seed=4))
    assert torch.equal(random_flips(99, seeded(3)), random_flips(99, seeded(3)))
    assert abs(random_flips(10000, seeded()).float().mean() - 0.5) < 0.02


def arrays(images):
    """Images (B, 3, H, W) as `crop_images` takes them."""
    return list(images.permute(0, 2, 3, 1).numpy())


def by_pillow(image, box, size):
    """A box of whole pixels (top, left, bottom, right) resized to (h, w): (3, h, w) float in [0, 1]."""
    top, left, bottom, right = box
    resized = Image.fromarray(image[top:bottom, left:right]).resize(size[::-1], Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255


def assert_close_to_pillow(ours, theirs):
    """Within a grey level but for a few pixels: what overshoots is clipped after the first of two passes in one of them."""
    distance = (ours - theirs).abs() * 255
    assert distance.quantile(0.95) < 1.01 and distance.mean() < 0.6


def test_crop_images__the_whole_image_at_its_own_size_is_the_image():
    images = noise(1, 12, 17)
    assert torch.equal(crop_images(arrays(images), WHOLE, NO_FLIP, (12, 17)), images / 255)
    assert torch.equal(crop_images(arrays(images), WHOLE, ~NO_FLIP, (12, 17)), images.flip(-1) / 255)


@pytest.mark.parametrize("size", [(64, 64), (31, 50), (96, 20), (8, 8)])
def test_crop_images__resizes_like_pillow(size):
    (image,) = arrays(noise(1, 40, 48))
    ours = crop_images([image], WHOLE, NO_FLIP, size)[0]
    assert_close_to_pillow(ours, by_pillow(image, (0, 0, 40, 48), size))


def test_crop_images__images_of_any_sizes_each_with_its_own_box():
    images = [arrays(noise(1, height, width))[0] for height, width in ((32, 32), (20, 44), (9, 64))]
    boxes = crops(3, scale=(0.1, 0.6), ratio=(0.5, 2.0))
    sizes = torch.tensor([image.shape[:2] for image in images])
    boxes, flips = snapped(boxes, sizes), torch.tensor([False, True, False])
    ours = crop_images(images, boxes, flips, (16, 16))
    for image, box, flip, view, size in zip(images, boxes, flips, ours, sizes, strict=True):
        pixels = torch.cat([box[:2] * size, (box[:2] + box[2:]) * size])
        assert torch.allclose(pixels, pixels.round(), atol=1e-4)
        expected = by_pillow(image, pixels.round().int().tolist(), (16, 16))
        assert_close_to_pillow(view, expected.flip(-1) if flip else expected)
    alone = crop_images(images[1:2], boxes[1:2], flips[1:2], (16, 16))
    assert torch.equal(alone[0], ours[1])


def test_snapped__leaves_at_least_a_pixel_inside_and_moves_by_half_a_pixel_at_most():
    boxes = crops(2000, scale=(0.001, 1.0), ratio=(0.1, 10.0))
    sizes = torch.randint(1, 40, (2000, 2), generator=seeded())
    found = snapped(boxes, sizes)
    first, extent = found[:, :2] * sizes, found[:, 2:] * sizes
    assert torch.allclose(first, first.round(), atol=1e-4) and torch.allclose(extent, extent.round(), atol=1e-4)
    assert (extent > 0.99).all() and (first >= 0).all() and (first + extent <= sizes + 1e-4).all()
    moved = (found[:, :2] - boxes[:, :2]).abs() * sizes
    assert (moved[extent > 1.5] <= 0.5 + 1e-4).all()


def test_crop_maps__resizes_like_antialiased_bilinear():
    maps = noise(2, 40, 48)
    expected = F.interpolate(maps.float(), size=(31, 20), mode="bilinear", antialias=True, align_corners=False)
    assert torch.allclose(crop_maps(maps, WHOLE.expand(2, 4), NO_FLIP.expand(2), (31, 20)), expected, atol=0.03)


def test_crop_labels__the_whole_map_on_its_own_grid_is_the_map():
    labels = torch.randint(0, 7, (2, 5, 9), dtype=torch.uint8, generator=seeded())
    boxes = WHOLE.expand(2, 4)
    view = crop_labels(labels, boxes, torch.tensor([False, True]), (5, 9))
    assert view.dtype == torch.uint8
    assert torch.equal(view[0], labels[0]) and torch.equal(view[1], labels[1].flip(-1))


@pytest.mark.parametrize("grid", [(8, 8), (4, 4), (14, 14), (6, 10), (5, 3), (1, 1)])
@pytest.mark.parametrize("teacher_grid", [(12, 12), (16, 8), (7, 7)])
def test_crop_labels__follow_their_pixels(teacher_grid, grid):
    # Parts are painted in pure red, green and blue and the background in black, so that a pixel's channels are the
    # parts' shares of it; the view's part at a patch must be the colour that dominates where the patch has its centre.
    batch, patch = 24, 2 * (60 // max(grid))
    labels = torch.randint(0, 4, (batch, *teacher_grid), dtype=torch.uint8, generator=seeded())
    scale = (112 // teacher_grid[0], 112 // teacher_grid[1])
    side = (teacher_grid[0] * scale[0], teacher_grid[1] * scale[1])
    painted = labels.long().repeat_interleave(scale[0], 1).repeat_interleave(scale[1], 2)
    pixels = (F.one_hot(painted, 4)[..., :3].permute(0, 3, 1, 2) * 255).to(torch.uint8)
    assert pixels.shape[2:] == side

    boxes = crops(batch, scale=(0.1, 1.0), ratio=(0.5, 2.0), aspect=1.3)
    boxes = snapped(boxes, torch.tensor([side]).expand(batch, 2))
    flips = random_flips(batch, seeded())
    view = crop_images(arrays(pixels), boxes, flips, (grid[0] * patch, grid[1] * patch))
    shares = torch.cat([view, 1 - view.sum(1, keepdim=True)], dim=1)
    by_patch = shares.unflatten(3, (grid[1], patch)).unflatten(2, (grid[0], patch))
    middle = slice(patch // 2 - 1, patch // 2 + 1)
    at_centre = by_patch[:, :, :, middle, :, middle].mean(dim=(3, 5))
    share, colour = at_centre.max(dim=1)
    # At a corner the cell that holds the centre keeps at least a quarter, so more than three quarters is its own.
    decided = share > 0.75
    assert decided.float().mean() > 0.7
    assert torch.equal(crop_labels(labels, boxes, flips, grid)[decided].long(), colour[decided])


def test_normalise__has_the_statistics_of_imagenet():
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = (mean + 2 * std)[:, None, None].expand(3, 2, 2)
    assert torch.allclose(normalise(image), torch.full((3, 2, 2), 2.0), atol=1e-5)
    assert torch.allclose(normalise(image[None])[0], normalise(image))
    assert to_bytes(normalise(noise(2, 5, 4) / 255)).equal(noise(2, 5, 4))


def jittered(images, *, brightness=0.0, contrast=0.0, saturation=0.0, probability=1.0, grey_probability=0.0):
    return jitter_colours(
        images,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        probability=probability,
        grey_probability=grey_probability,
        generator=seeded(),
    )


def test_jitter_colours__changes_nothing_without_strength_or_probability():
    images = noise(4, 8, 8) / 255
    assert torch.equal(jittered(images), images)
    assert torch.equal(jittered(images, brightness=0.4, contrast=0.4, saturation=0.4, probability=0.0), images)


def test_jitter_colours__scales_brightness_uniformly_and_each_image_alone():
    images = torch.full((5000, 3, 1, 1), 0.5)
    factors = jittered(images, brightness=0.4).flatten(1) / 0.5
    assert torch.allclose(factors[:, 0], factors[:, 2])
    levels = torch.linspace(0, 1, 11)
    assert torch.allclose(factors[:, 0].quantile(levels), 0.6 + 0.8 * levels, atol=0.03)


def test_jitter_colours__contrast_keeps_the_mean_grey_and_saturation_each_grey():
    images = 0.4 + 0.2 * noise(16, 8, 8) / 255  # far enough from 0 and 1 not to be clipped
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    contrasted, saturated = jittered(images, contrast=0.5), jittered(images, saturation=0.5)
    assert torch.allclose((contrasted * luma).sum(1).mean((1, 2)), (images * luma).sum(1).mean((1, 2)), atol=1e-5)
    assert torch.allclose((saturated * luma).sum(1), (images * luma).sum(1), atol=1e-5)
    assert not torch.allclose(contrasted, images, atol=1e-3) and not torch.allclose(saturated, images, atol=1e-3)


def test_jitter_colours__takes_all_colour_from_grey_images():
    grey = jittered(noise(4, 8, 8) / 255, grey_probability=1.0)
    assert torch.allclose(grey[:, 0], grey[:, 1], atol=1e-6) and torch.allclose(grey[:, 0], grey[:, 2], atol=1e-6)
