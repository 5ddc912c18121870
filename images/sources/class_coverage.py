"""Which classes have images to train on and to test, from the number of images by split and class."""

from collections import Counter
from collections.abc import Mapping, Sequence

from images.sources.items import NO_LABEL, Source

# Split and class name -> images; the class name of images without a label is empty.
Counts = Mapping[tuple[str, str], int]
WITHOUT = "add images with labels, or go without accuracy: data.labels: [] for data.path, no entry in transfer.sets"
_NAMED = 3


def count(source: Source) -> Counts:
    """Images by split and class of a source as it lists them."""
    names = {NO_LABEL: "", **dict(enumerate(source.classes))}
    by_label = Counter((item.split, item.label) for item in source.items)
    return {(split, names[label]): images for (split, label), images in by_label.items()}


def coverage_lines(counts: Counts, classes: Sequence[str]) -> list[str]:
    """A line for the classes without training images and one for those without test images, where there are any."""
    lines = []
    for split, purpose in (("train", "training"), ("test", "test")):
        absent = [name for name in classes if not counts.get((split, name))]
        if absent:
            lines.append(f"{len(absent)} of {len(classes)} classes have no {purpose} images: {some(absent)}")
    return lines


def why_unusable(counts: Counts, classes: Sequence[str]) -> str:
    """Why no accuracy could mean anything with these classes; empty where one could, or where there are none."""
    if not classes or any(counts.get(("train", name)) and counts.get(("test", name)) for name in classes):
        return ""
    return f"none of {len(classes)} classes has both training and test images"


def check_coverage(place: str, counts: Counts, classes: Sequence[str]) -> None:
    """ValueError where there are classes, and no accuracy could mean anything with them."""
    if why := why_unusable(counts, classes):
        raise ValueError(f"{place}: {why}; {WITHOUT}")


def some(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    few = ", ".join(name if name.isprintable() else ascii(name) for name in names[:_NAMED])
    return few + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
