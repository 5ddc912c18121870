"""Which mask belongs to which image: the same name, or that name with a usual ending that all masks have."""

import re
from collections.abc import Collection

_ENDING = re.compile(
    rb"[ ._-](masks?|seg|segm|segmentation|labels?|labelids|gt|groundtruth|trimaps?|annotations?|l)$", re.IGNORECASE
)


def mask_ending(masks: Collection[bytes], images: Collection[bytes]) -> bytes | None:
    """What stands behind the name of its image in the name of every mask, most often nothing; None where none fits.

    masks, images: names with folders and without suffix. Every mask may end so although some have no image.
    """
    if any(mask in images for mask in masks):
        return b""
    endings = {match[0] if (match := _ENDING.search(mask)) else b"" for mask in masks}
    if len(endings) != 1:
        return None
    (ending,) = endings
    return ending if ending and any(mask.removesuffix(ending) in images for mask in masks) else None
