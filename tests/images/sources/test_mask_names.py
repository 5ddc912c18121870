import pytest

from images.sources.mask_names import mask_ending

IMAGES = [b"a/1", b"a/2", b"b/10"]


@pytest.mark.parametrize(
    "ending", ["", "_mask", "-mask", " Masks", ".seg", "_segmentation", "_label", "_LABELS", "_L", "_gt"]
)
def test_mask_ending__is_what_all_masks_share(ending):
    masks = [image + ending.encode() for image in (*IMAGES, b"a/without_image")]
    assert mask_ending(masks, IMAGES) == ending.encode()


@pytest.mark.parametrize(
    "masks",
    ["a/1_mask a/2_seg", "a/1_mask a/2x", "a/9_mask", "b/1", "a/1_other a/2_other", "a/_mask", ""],
)
def test_mask_ending__is_none_where_no_rule_fits(masks):
    assert mask_ending(masks.encode().split(), IMAGES) is None


def test_mask_ending__the_same_name_goes_first():
    assert mask_ending([b"1_mask", b"1"], [b"1"]) == mask_ending([b"1_mask"], [b"1_mask", b"1"]) == b""
