"""Sets of images as people have them, and what becomes of each: every `Case` draws one in an empty folder.

The pictures are blocks of colours, no two alike.
"""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ABC = ("ant", "bee", "cat")
APPLE_DOUBLE = b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(200)
ODD_NAMES = (
    "caf\u00e9", "cafe\u0301", "Cat", "cat", "-dash", "50% off", "a b.c", "a\tb", "it's\"", "{x}", "$HOME", "a;b", "a\\b",
    "#1", "\u65e5\u672c",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One set, and what is expected of `semmae use` and `prepare_data`.

    images: number in each split, or in all where splits are drawn. classes: none without labels. rejected: reason -> rows.
    says: what the lines of `use` hold. error: what the one line holds with which `use` ends; then nothing else counts.
    stops: the same of `prepare_data`. data: parameters that a person would set.
    """

    draw: Callable[[Path], Any]
    images: Mapping[str, int] | int = 0
    classes: tuple[str, ...] = ()
    unlabelled: int = 0
    masks: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    error: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


def picture(*seed: int, size: tuple[int, int] = (12, 10), format: str = "PNG") -> bytes:
    """An encoded picture that only this seed gives."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(buffer, format)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def pictures(folder: Path, count: int, *, suffix: str = ".png") -> None:
    for number in range(count):
        write(folder / f"{number:03}{suffix}", picture(number, *str(folder).encode()))


def classes(folder: Path, names: tuple[str, ...] = ABC, count: int = 8, *, suffix: str = ".png") -> None:
    for name in names:
        pictures(folder / name, count, suffix=suffix)


def splits(folder: Path, counts: Mapping[str, int], names: tuple[str, ...] = ABC) -> None:
    for split, count in counts.items():
        classes(folder / split, names, count)


def flat_val(folder: Path) -> None:
    classes(folder / "train", count=20)
    pictures(folder / "val", 2)


def system_files(folder: Path) -> None:
    classes(folder)
    for name in ABC:
        write(folder / name / ".DS_Store", b"\0\0\0\1Bud1" + bytes(600))
        write(folder / name / "Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(600))


def apple_doubles(folder: Path) -> None:
    classes(folder)
    for path in list(folder.glob("*/*.png")):
        write(path.with_name(f"._{path.name}"), APPLE_DOUBLE)


def checkpoints(folder: Path) -> None:
    classes(folder)
    for name in ABC:
        write(folder / name / ".ipynb_checkpoints/000-checkpoint.png", (folder / name / "000.png").read_bytes())


def shapes(folder: Path) -> None:
    classes(folder)
    for number, size in enumerate(((1, 1), (3000, 2), (2, 3000), (7, 5), (1, 64))):
        write(folder / "ant" / f"odd{number}.png", picture(99, number, size=size))


def masks(folder: Path, values: tuple[int, ...], *, ending: str = "") -> None:
    """Two classes of 8 training, 2 validation and 3 test images, with masks of stripes of `values`."""
    splits(folder / "images", {"train": 8, "val": 2, "test": 3}, ("ant", "bee"))
    stripes = (
        np.repeat(np.array(values, np.uint8), 12).reshape(len(values), 12).repeat(-(-10 // len(values)), axis=0)[:10]
    )
    for path in folder.glob("images/*/*/*.png"):
        mask = folder / "masks" / path.relative_to(folder / "images")
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stripes).save(mask.with_name(f"{path.stem}{ending}.png"))


def table(folder: Path, text: Callable[[int], str], *, head: str, name: str = "labels.csv") -> None:
    """24 loose images, and a table with a line each."""
    pictures(folder / "images", 24)
    lines = [head, *(text(number) for number in range(24))]
    (folder / name).write_text("\n".join(lines) + "\n")


LABELS = [number % 3 for number in range(24)]
PATHS = [f"{number}.png" for number in range(24)]
ENCODED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGES = pa.array([{"bytes": picture(7, n), "path": path} for n, path in enumerate(PATHS)], ENCODED)


def parquet(folder: Path, file: str = "data/train-00000-of-00001.parquet", **columns: Any) -> None:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / file)


def apple_parquet(folder: Path) -> None:
    parquet(folder, image=IMAGES, label=LABELS)
    write(folder / "data/._train-00000-of-00001.parquet", APPLE_DOUBLE)


def hive(folder: Path) -> None:
    for label, name in enumerate(ABC):
        rows = [row for row in range(24) if LABELS[row] == label]
        parquet(folder, f"label={name}/part-0.parquet", image=IMAGES.take(pa.array(rows)))


def arrow(folder: Path) -> None:
    """What `save_to_disk` of Hugging Face's datasets writes."""
    folder.mkdir(exist_ok=True)
    rows = pa.table({"image": IMAGES, "label": LABELS})
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, rows.schema) as out,
    ):
        out.write_table(rows)
    for name in ("state.json", "dataset_info.json"):
        (folder / name).write_text(json.dumps({}))


def webdataset(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "shard-000000.tar", "w") as tar:
        for number in range(24):
            for ending, data in (("png", picture(7, number)), ("cls", b"%d" % LABELS[number])):
                member = tarfile.TarInfo(f"{number:06}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def unpacked_twice(folder: Path) -> None:
    """What zip makes on a Mac."""
    classes(folder / "pets")
    shutil.copytree(folder / "pets", folder / "__MACOSX/pets")


CASES = {
    # Folders.
    "plain": Case(classes, 24, ABC),
    "splits": Case(lambda f: splits(f, {"train": 8, "val": 2, "test": 3}), {"train": 24, "val": 6, "test": 9}, ABC),
    "capitals": Case(lambda f: splits(f, {"Training": 8, "Testing": 3}), {"train+val": 24, "test": 9}, ABC),
    "capitals2": Case(lambda f: splits(f, {"Train": 8, "Test": 3}), {"train+val": 24, "test": 9}, ABC),
    "roboflow": Case(
        lambda f: splits(f, {"train": 8, "valid": 2, "test": 3}), {"train": 24, "val": 6, "test": 9}, ABC
    ),
    "roboflow_small": Case(
        lambda f: splits(f, {"train": 30, "valid": 1, "test": 3}), {"train": 90, "val": 3, "test": 9}, ABC
    ),
    "flatval": Case(flat_val, error=("val/",)),
    "nested": Case(lambda f: classes(f / "PetImages"), 24, ABC, says=("PetImages",)),
    "macosx": Case(unpacked_twice, 24, ABC, rejected={"litter": 24}, says=("pets", "litter, never counted: 24")),
    "dsstore": Case(system_files, 24, ABC, rejected={"litter": 6}, says=("litter, never counted: 6",)),
    "appledouble": Case(apple_doubles, 24, ABC, rejected={"litter": 24}, says=("litter, never counted: 24",)),
    "ipynb": Case(checkpoints, 24, ABC, rejected={"litter": 3}),
    "names": Case(lambda f: classes(f, ODD_NAMES, 3), 45, tuple(sorted(ODD_NAMES)), says=("#1, $HOME, -dash",)),
    "shapes": Case(shapes, 29, ABC, says=("from 8 images",)),
    "flat": Case(lambda f: pictures(f, 24), 24, says=("no labels: ", "transfer.sets")),
    "one_class": Case(lambda f: classes(f, ("ant",), 24), 24, says=("ant", "no labels: ")),
    "one_image_a_class": Case(
        lambda f: classes(f, tuple(f"c{n:02}" for n in range(40)), 1), 40,
        says=("none of 40 classes has both training and test images", "no labels: "),
    ),
    "two_images_a_class": Case(
        lambda f: (classes(f, tuple(f"c{n:02}" for n in range(20)), 2), pictures(f / "dog", 6)),
        46, (*(f"c{n:02}" for n in range(20)), "dog"), says=("from 2 images (c00) to 6 (dog)",),
    ),
    "class_without_training_images": Case(
        lambda f: (splits(f, {"train": 8, "val": 2, "test": 3}), pictures(f / "test/dog", 3)),
        {"train": 24, "val": 6, "test": 12}, (*ABC, "dog"), says=("1 of 4 classes have no training images: dog",),
    ),
    "empty": Case(lambda f: (f / "ant").mkdir(), error=("no image below mine, which is empty",)),
    "no_image": Case(lambda f: (f / "notes.txt").write_text("hello"), error=("no image below mine", "notes.txt",)),
    "two_images": Case(lambda f: pictures(f, 2), error=("2 images are too few",)),
    # Tables of labels beside the images.
    "csv": Case(
        lambda f: table(f, lambda n: f"{n:03}.png,{ABC[n % 3]}", head="filename,label"), 24, ABC, says=("labels.csv",)
    ),
    "csv_without_suffixes": Case(
        lambda f: table(f, lambda n: f"{n:03},{ABC[n % 3]}", head="id,breed"), 24, ABC, says=("labels.csv",)
    ),
    "tsv": Case(
        lambda f: table(f, lambda n: f"{n:03}.png\t{ABC[n % 3]}", head="filename\tlabel", name="labels.tsv"), 24, ABC
    ),
    "csv_with_splits": Case(
        lambda f: table(
            f, lambda n: f"{n:03}.png,{ABC[n % 3]},{('train', 'train', 'valid', 'test')[n // 3 % 4]}",
            head="filename,label,split",
        ),
        {"train": 12, "val": 6, "test": 6}, ABC,
    ),
    "csv_with_gaps": Case(
        lambda f: table(f, lambda n: f"{n:03}.png,{ABC[n % 3] if n > 3 else ''}", head="filename,label"), 24, ABC,
        unlabelled=4, says=("4 of 24 images have no label", "images without a label train",),
    ),
    # Masks.
    "binmask": Case(
        lambda f: masks(f, (0, 255)), {"train": 16, "val": 4, "test": 6}, ("ant", "bee"), masks=26,
        says=("0 background, 255 the object",),
    ),
    "sufmask": Case(
        lambda f: masks(f, (0, 1), ending="_mask"), {"train": 16, "val": 4, "test": 6}, ("ant", "bee"), masks=26,
        says=("_mask",),
    ),
    "trimap": Case(
        lambda f: masks(f, (1, 2, 3)), says=("none of them is the background", "{2: background, 3: ignored}"),
        stops=("none of them is the background", "{2: background, 3: ignored}"),
    ),
    "trimap_named": Case(
        lambda f: masks(f, (1, 2, 3)), {"train": 16, "val": 4, "test": 6}, ("ant", "bee"), masks=26,
        data={"mask_values": {2: "background", 3: "ignored"}}, says=("2 background", "3 ignored"),
    ),
    "void": Case(
        lambda f: masks(f, (0, 1, 2, 11)), {"train": 16, "val": 4, "test": 6}, ("ant", "bee"), masks=26,
        data={"mask_values": {11: "ignored"}}, says=("0 background, 1-2 a part each, 11 ignored",),
    ),
    # Parquet and other files of many images.
    "dict": Case(
        lambda f: parquet(f, image=IMAGES, label=pa.array([ABC[n] for n in LABELS]).dictionary_encode()), 24, ABC
    ),
    "floatnan": Case(
        lambda f: parquet(f, image=IMAGES, label=[float("nan") if n % 12 == 0 else float(n % 4 * 5) for n in range(24)]),
        24, ("0", "5", "10", "15"), unlabelled=2, says=("2 of 24 images have no label",),
    ),
    "emptystr": Case(
        lambda f: parquet(f, image=IMAGES, label=["" if n % 12 == 0 else ABC[n % 3] for n in range(24)]), 24, ABC,
        unlabelled=2,
    ),
    "listlabel": Case(
        lambda f: parquet(f, image=IMAGES, label=[[n] for n in LABELS]), error=("data.label_column: 'label'", "lists")
    ),
    "listimage": Case(
        lambda f: parquet(f, image=pa.array([[one] for one in IMAGES.to_pylist()], pa.list_(ENCODED)), label=LABELS),
        error=("data.image_column: 'image'", "lists of images"),
    ),
    "urls": Case(
        lambda f: parquet(f, image=[f"https://example.org/{path}" for path in PATHS], label=LABELS),
        error=("data.image_column: 'image'", "text"),
    ),
    "onlypaths": Case(
        lambda f: parquet(f, image=pa.array([{"bytes": None, "path": path} for path in PATHS], ENCODED), label=LABELS),
        error=("data.image_column: ", "only paths"),
    ),
    "otherlabel": Case(
        lambda f: parquet(f, img=IMAGES, fine_label=LABELS), 24, ("0", "1", "2"), says=("'img'", "'fine_label'")
    ),
    "appleparquet": Case(apple_parquet, 24, ("0", "1", "2"), rejected={"litter": 1}),
    "hive": Case(hive, 24, ABC),
    "arrow": Case(arrow, 24, ("0", "1", "2")),
    "wds": Case(webdataset, 24, ("0", "1", "2")),
}  # fmt: skip
