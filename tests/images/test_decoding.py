import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from images.decoding import (
    HEAD_BYTES,
    Geometry,
    Refused,
    decode_at_least,
    decode_mask_square,
    decode_square,
    inspect,
    inspect_mask,
    may_be_image,
    squeezed,
)

LIMIT = 1_000_000
FORMATS = [
    ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {"lossless": True}),
    ("TIFF", {}), ("TIFF", {"compression": "jpeg"}), ("BMP", {}), ("PPM", {}), ("JPEG2000", {}),
]  # fmt: skip


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decode(data):
    """The whole picture at its own size."""
    return Image.fromarray(decode_at_least(data, LIMIT).pixels)


def picture(width=48, height=32, seed=0):
    steps = np.random.default_rng(seed).normal(0, 6, (height, width, 3))
    return Image.fromarray((np.cumsum(steps, axis=1) + 128).clip(0, 255).astype(np.uint8))


def turned_file(image, orientation, format="PNG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, format, exif=exif)


def reason_of(function, *arguments, **named):
    with pytest.raises(Refused) as caught:
        function(*arguments, **named)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(("format", "options"), FORMATS)
def test_decode__every_format_gives_rgb_of_its_size(format, options):
    data = encoded(picture(), format, **options)
    image = decode(data)
    assert (image.mode, image.size) == ("RGB", (48, 32))
    assert inspect(data, max_pixels=LIMIT) == Geometry(48, 32, 1)
    assert may_be_image(data[:HEAD_BYTES])
    if format in ("PNG", "WEBP", "TIFF", "BMP", "PPM") and not options.get("compression"):
        assert np.array_equal(np.asarray(image), np.asarray(picture()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("format", "options"), FORMATS)
def test_inspect__refuses_a_file_wherever_it_is_cut_as_decoding_does(format, options):
    data = encoded(picture(), format, **options)
    for cut in {*range(1, 60, 5), *range(60, len(data) - 8, max(1, len(data) // 20))}:
        assert reason_of(inspect, data[:cut], max_pixels=LIMIT) in ("truncated", "damaged", "not an image"), cut
        with pytest.raises(Refused):
            decode(data[:cut])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_inspect__half_a_file_is_truncated(format):
    data = encoded(picture(), format)
    assert reason_of(inspect, data[: len(data) // 2], max_pixels=LIMIT) == "truncated"


def test_inspect__what_is_no_image_is_told_apart():
    assert reason_of(inspect, b"", max_pixels=LIMIT) == "empty"
    for data in (b"BMW is a car", b"P5 road", b"\0\0\0\1Bud1", b"%!PS-Adobe", b"<svg/>"):
        assert reason_of(inspect, data, max_pixels=LIMIT) == "not an image", data
    frames = [picture(seed=seed) for seed in range(3)]
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert reason_of(inspect, data, max_pixels=LIMIT) == "animated", format
    assert reason_of(inspect, encoded(Image.new("F", (4, 4)), "TIFF"), max_pixels=LIMIT) == "unsupported pixels"


def test_inspect__a_bomb_is_refused_by_its_header():
    bomb = bytearray(encoded(Image.new("1", (8, 8))))
    bomb[16:24] = (50_000).to_bytes(4, "big") * 2  # Width and height of the PNG header; its checksum is wrong now.
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    assert reason_of(inspect, bytes(bomb), max_pixels=LIMIT) == "too large"
    data = encoded(picture(48, 32))
    assert reason_of(inspect, data, max_pixels=48 * 32 - 1) == "too large"
    assert inspect(data, max_pixels=48 * 32).width == 48


def test_decode__the_first_frame_of_a_phone_photograph_is_kept():
    photograph, preview = Image.new("RGB", (16, 8), "red"), Image.new("RGB", (16, 8), "blue")
    data = encoded(photograph, "MPO", save_all=True, append_images=[preview])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    red, _, blue = decode(data).getpixel((0, 0))
    assert red > 200 > 50 > blue


def test_decode__grey_palette_cmyk_and_sixteen_bit():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey = np.repeat(ramp[..., None], 3, axis=2)
    sixteen = encoded(Image.fromarray(ramp.astype(np.uint16) * 256 + 77))
    palette = encoded(Image.fromarray(ramp).convert("P"))
    for data in (encoded(Image.fromarray(ramp)), sixteen, palette):
        assert np.array_equal(np.asarray(decode(data)), grey)
    white = decode(encoded(Image.new("CMYK", (8, 8)), "JPEG"))
    assert np.asarray(white).min() > 250
    single = decode(encoded(Image.new("1", (1, 1), 1)))
    assert (single.size, single.getpixel((0, 0))) == ((1, 1), (255, 255, 255))


def test_decode__transparent_pixels_become_white():
    half = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    half.putpixel((1, 0), (200, 0, 0, 0))
    for image, options in ((half, {}), (half.convert("P"), {"transparency": 0})):
        colours = np.asarray(decode(encoded(image, **options)))
        assert [255, 255, 255] in colours[0].tolist()
    assert np.asarray(decode(encoded(half))).tolist() == [[[200, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode__applies_the_exif_orientation_as_pillow_does(orientation, format):
    data = turned_file(picture(), orientation, format)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    image = decode(data)
    assert np.array_equal(np.asarray(image), np.asarray(expected))
    geometry = inspect(data, max_pixels=LIMIT)
    assert (geometry.width, geometry.height) == image.size
    assert geometry.stored == (48, 32)
    size, aspect, square = squeezed(data, 16)
    whole = np.asarray(expected.resize((16, 16), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(square - whole).mean() < 3
    assert size == (16, 16) and aspect == image.width / image.height


@pytest.mark.filterwarnings("ignore")
def test_decode__damaged_metadata_do_not_harm_the_picture():
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert decode(data).size == (48, 32)


def test_decode_square__is_close_to_the_whole_picture_resized_at_full_size():
    image = picture(80, 60).resize((640, 480), Image.Resampling.BICUBIC)
    data = encoded(image, "JPEG", quality=95)
    reference = np.asarray(Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.BICUBIC)).astype(float)
    square = decode_square(data, 64)
    assert (square.shape, square.dtype) == ((64, 64, 3), np.uint8)
    assert 10 * np.log10(255**2 / np.mean((square - reference) ** 2)) > 40


def test_decode_square__covers_the_whole_picture():
    image = Image.new("RGB", (90, 10), "black")
    image.paste("white", (60, 0, 90, 10))
    square = decode_square(encoded(image), 30)
    assert square[:, :19].max() < 10
    assert square[:, 21:].min() > 245


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_mask__label_ids_survive_every_single_channel_mode(mode):
    labels = np.random.default_rng(0).integers(0, 2 if mode == "1" else 7, (20, 30))
    if mode == "P":
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())
    else:
        image = Image.fromarray(labels.astype({"L": np.uint8, "1": bool, "I;16": np.uint16}[mode]))
    data = encoded(image)
    assert inspect_mask(data, Geometry(30, 20, 1), max_pixels=LIMIT) == labels.max()
    rows, columns = np.arange(10) * 2 + 1, np.arange(10) * 3 + 1
    assert np.array_equal(decode_mask_square(data, 10), labels[np.ix_(rows, columns)])


def test_mask__another_size_or_kind_is_refused():
    image = Geometry(30, 20, 1)
    mask = encoded(Image.new("L", (30, 20), 3))
    assert inspect_mask(mask, image, max_pixels=LIMIT) == 3
    assert inspect_mask(encoded(Image.new("L", (30, 20), 255)), image, max_pixels=LIMIT) == -1
    assert reason_of(inspect_mask, mask, Geometry(20, 30, 1), max_pixels=LIMIT) == "mask size"
    colours, large = encoded(Image.new("RGB", (30, 20))), encoded(Image.new("I;16", (30, 20), 300))
    for data in (b"", b"text", mask[:50], colours, large):
        assert reason_of(inspect_mask, data, image, max_pixels=LIMIT) == "damaged mask"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_mask__follows_its_picture_through_the_orientation(orientation):
    # 45 and 27 by 9 are odd steps: their middle pixel stays the middle when they are turned.
    labels = Image.fromarray((np.arange(45 * 27).reshape(27, 45) % 7).astype(np.uint8))
    image = turned_file(Image.merge("RGB", [labels] * 3), orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(image))).getchannel(0)
    truth = upright.resize((9, 9), Image.Resampling.NEAREST)
    inspect_mask(encoded(labels), inspect(image, max_pixels=LIMIT), max_pixels=LIMIT)
    assert np.array_equal(decode_mask_square(encoded(labels), 9, image=image), np.asarray(truth))


def test_mask__already_upright_stays():
    image = turned_file(picture(), 6)
    upright = Image.fromarray((np.arange(48 * 32).reshape(48, 32) % 7).astype(np.uint8))
    inspect_mask(encoded(upright), inspect(image, max_pixels=LIMIT), max_pixels=LIMIT)
    expected = np.asarray(upright.resize((8, 8), Image.Resampling.NEAREST))
    assert np.array_equal(decode_mask_square(encoded(upright), 8, image=image), expected)


@pytest.mark.parametrize("call", ["open", "load", "getexif"])
def test_inspect__a_lack_of_memory_says_nothing_of_the_picture(monkeypatch, call):
    """Refused, it would be left out of the data, and what is prepared would depend on the memory that was free."""

    def fail(*arguments, **options):
        raise MemoryError

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    monkeypatch.setattr(Image if call == "open" else PngImagePlugin.PngImageFile, call, fail)
    with pytest.raises(MemoryError):
        inspect(buffer.getvalue(), max_pixels=1000)
