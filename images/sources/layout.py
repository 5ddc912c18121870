"""What the folders below a root mean: splits, classes, masks, or none of it.

train/CLASS/*          splits in their usual words, or with one thing around (`images.sources.splits`)
CLASS/*                classes alone; folders below a class belong to it
images/..., masks/...  both of the above below `images`, with the same places below `masks`; or in each split
*                      images without classes, in folders or not

A folder around all this is entered. Folders without an image mean nothing, and one folder alone is no class: it tells
nothing apart.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from images.sources.folder_tree import FolderTree, joined
from images.sources.splits import split_folders, split_named
from images.sources.tree import shown

IMAGE_WORDS = {b"images", b"image", b"imgs", b"img", b"jpegimages"}
MASK_WORDS = {
    b"masks", b"mask", b"labels", b"annotations", b"segmentation", b"segmentations", b"segmentationclass", b"trimaps",
    b"gt", b"groundtruth", b"ground_truth",
}  # fmt: skip


@dataclass(frozen=True)
class Group:
    """A folder of class folders, or of images; its split is empty where folders name none."""

    folder: bytes
    split: str


@dataclass(frozen=True)
class Twins:
    """Two folders: a mask has the place below `masks` that its image has below `images`."""

    images: bytes
    masks: bytes


@dataclass(frozen=True)
class Layout:
    """base: the folder that the others were found in. has_classes: whether the groups hold class folders.

    remarks: lines on folders that are not what their place or name promises.
    """

    base: bytes
    groups: tuple[Group, ...]
    twins: tuple[Twins, ...]
    has_classes: bool
    remarks: tuple[str, ...]

    def place(self, path: bytes) -> tuple[str, str] | None:
        """Split and class of a path, which ends in `/` for a folder; None outside of all groups and classes."""
        for group in self.groups:
            if group.folder and not path.startswith(group.folder + b"/"):
                continue
            if not self.has_classes:
                return group.split, ""
            class_folder, slash, _ = path[len(group.folder) :].lstrip(b"/").partition(b"/")
            return (group.split, shown(class_folder)) if slash else None
        return None

    def table_folders(self) -> set[bytes]:
        """Where tables of labels are looked for: beside the images and in every folder above them."""
        parts = [group.folder.split(b"/") for group in self.groups]
        return {b"/".join(of[:length]) for of in parts for length in range(len(of) + 1)}

    def lines(self) -> list[str]:
        """The layout in words, for the user."""
        content = "class folders" if self.has_classes else "images without class folders"
        if any(group.split for group in self.groups):
            content = ", ".join(f"{shown(group.folder)}/ ({group.split})" for group in self.groups) + f" with {content}"
        where = [f"all images lie in {shown(self.base)}/"] if self.base else []
        twins = [f"masks of {shown(twin.images)}/ lie in {shown(twin.masks)}/" for twin in self.twins]
        return [f"layout: {content}", *where, *twins, *self.remarks]


def layout_of(name: str, tree: FolderTree) -> Layout:
    """The layout of a tree. ValueError where folders contradict each other; it names them, below the root `name`."""
    base = images = _unwrapped(tree, b"")
    every_twins: list[Twins] = []
    groups: list[Group] = []
    if twins := _twins(tree, base):
        images = _unwrapped(tree, twins.images)
        every_twins.append(twins)
    splits = _split_folders(name, tree, images)
    for folder, split in splits.items():
        inner = joined(images, folder)
        while step := _inner(tree, inner, split):
            inner = step if isinstance(step, bytes) else step.images
            every_twins += [step] if isinstance(step, Twins) else []
        groups.append(Group(inner, split))
    groups = _without_lone_folders(tree, groups or [Group(images, "")])
    remarks = _remarks(tree, images, splits) if splits else ()
    return Layout(base, tuple(groups), tuple(every_twins), _has_classes(name, tree, groups), tuple(remarks))


def _unwrapped(tree: FolderTree, folder: bytes) -> bytes:
    """The folder within a folder that holds nothing else with images, and so on."""
    while not tree.has_images(folder) and not _twins(tree, folder):
        inside = tree.holding_images(folder)
        if len(inside) != 1 or split_folders(inside):
            break
        folder = joined(folder, inside[0])
    return folder


def _twins(tree: FolderTree, folder: bytes) -> Twins | None:
    """Two folders, of images and of masks, where no other folder holds images; `images` and `masks` in any company."""
    holding = tree.holding_images(folder)
    if b"images" in holding and b"masks" in tree.subfolders(folder):
        return Twins(joined(folder, b"images"), joined(folder, b"masks"))
    images = [name for name in holding if name.lower() in IMAGE_WORDS]
    masks = [name for name in holding if name.lower() in MASK_WORDS]
    if len(images) != 1 or len(masks) != 1 or len(holding) != 2:
        return None
    path = joined(folder, masks[0])
    # As in annotations/trimaps/*, where images/ has no such folder.
    while len(inside := tree.holding_images(path)) == 1 and inside[0] not in tree.subfolders(joined(folder, images[0])):
        path = joined(path, inside[0])
    return Twins(joined(folder, images[0]), path)


def _split_folders(name: str, tree: FolderTree, folder: bytes) -> dict[bytes, str]:
    """Folder -> split of the split folders in a folder, empty where there are none."""
    holding = tree.holding_images(folder)
    splits = split_folders(holding)
    beside = [other for other in holding if other not in splits]
    train = [split for split in splits if splits[split] == "train"]
    if splits and not train:
        folders = ", ".join(f"{shown(split)}/" for split in splits)
        if not beside:
            advice = "and no folder train/ with images; add it, or use <class>/* alone"
            raise ValueError(f"data.path: {name} has {folders} {advice}")
        if any({*tree.holding_images(joined(folder, split))} & {*beside} for split in splits):
            advice = "with class folders beside the same class folders; move those into train/"
            raise ValueError(f"data.path: {name} has {folders} {advice}")
        return {}
    # A class may be called train, as the vehicle is: then other classes stand beside it, and it holds no folders.
    if not train or (len(splits) == 1 and beside and not tree.holding_images(joined(folder, train[0]))):
        return {}
    return splits


def _remarks(tree: FolderTree, folder: bytes, splits: Mapping[bytes, str]) -> Iterator[str]:
    """Lines on the folders beside those of the splits."""
    for name in tree.holding_images(folder):
        if name not in splits:
            yield f"{shown(joined(folder, name))}/ is not used: it lies beside splits and is none"
    for name in tree.subfolders(folder):
        split = split_named(shown(name))
        if split and name not in splits:
            yield f"{shown(joined(folder, name))}/ holds no image, so it gives none to {split}"


def _inner(tree: FolderTree, folder: bytes, split: str) -> bytes | Twins | None:
    """The next folder within a split's: train/train/*, train/images/* and train/images/* beside train/masks/*."""
    if twins := _twins(tree, folder):
        return twins
    inside = tree.holding_images(folder)
    if tree.has_images(folder) or len(inside) != 1:
        return None
    name = inside[0]
    is_wrapper = name.lower() in IMAGE_WORDS or split_named(shown(name)) == split or folder.endswith(b"/" + name)
    return joined(folder, name) if is_wrapper else None


def _without_lone_folders(tree: FolderTree, groups: list[Group]) -> list[Group]:
    """Groups without the one folder that stands alone in each of them."""
    while all(len(tree.holding_images(group.folder)) == 1 and not tree.has_images(group.folder) for group in groups):
        groups = [Group(joined(group.folder, *tree.holding_images(group.folder)), group.split) for group in groups]
    return groups


def _has_classes(name: str, tree: FolderTree, groups: list[Group]) -> bool:
    """Whether the groups hold class folders; ValueError where only some do."""
    inside = {group: tree.holding_images(group.folder) for group in groups}
    classes = sorted({class_folder for names in inside.values() for class_folder in names})
    if len(classes) < 2:
        return False
    flat = next((group for group, names in inside.items() if not names), None)
    if flat is None:
        return True
    full = next(group for group, names in inside.items() if names)
    instead = (
        "take them out there" if flat.split == "train" else f"move it elsewhere ({flat.split} is then drawn from train)"
    )
    raise ValueError(
        f"data.path: {name}/{shown(flat.folder)}/ has images and no class folders, but {shown(full.folder)}/ has "
        f"{', '.join(map(shown, inside[full][:3]))}; sort its images into class folders, or {instead}"
    )
