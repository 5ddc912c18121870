"""Pictures of the learned parts of any image files: one for each image, and a sheet across them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from config.redaction import CONTROL
from images.decoding import decode_square, inspect
from reports import layout
from reports.dissection import Dissection, dissect, load_decoder
from reports.gallery import PartMaps, Strip, painted_strip, rebuilt_strip, single_part_strips
from reports.lettering import drawable, shortened
from reports.map_tiles import part_colours
from reports.pictures import strip
from reports.portrait import portrait
from reports.samples import TILE
from shards.files import whole_file
from training.part_labels import FrozenParts
from training.teacher import FrozenTeacher

NEEDED = ("teacher", "part_learner")
PORTRAIT_TILE = 384
# Images at a time bound the memory, images on the sheet its width.
BATCH, MOST_ON_SHEET = 16, 8
# Characters of a file's name that its picture keeps: a file system's limit is in bytes, four a character at most.
LONGEST = 50
SHEET = "parts_across_images"


class Shown(NamedTuple):
    """The result for a file: a picture, or its problem in one line. The sheet has no source."""

    source: Path | None
    picture: Path | None
    problem: str = ""


class Read(NamedTuple):
    """A file that can be decoded, its name as pictures can draw it, and the path of its picture."""

    source: Path
    title: str
    encoded: bytes
    aspect: float
    target: Path


@torch.no_grad()
def show(
    paths: Sequence[Path], folder: Path, *, max_pixels: int, device: torch.device, root: Path = Path()
) -> Iterator[Shown]:
    """Draw every readable file, and yield the problem of every other; two or more drawn files also get a sheet.

    Uses the teacher and the part learner below `root`. Never overwrites a given file. Raises ValueError if nothing has
    been learned yet.
    """
    for name in NEEDED:
        if not (root / name / "config.json").is_file():
            raise ValueError(
                f"{root / name}: not there yet, so there are no parts to show; run `dvc repro refine_parts`"
            )
    teacher, parts = FrozenTeacher(root / "teacher", device), FrozenParts(root / "part_learner", device)
    decoder = load_decoder(root / "part_learner", device)
    targets = choose_targets(paths, folder)
    sheet: list[tuple[Read, Dissection, int]] = []
    for start in range(0, len(paths), BATCH):
        files = []
        for number, (path, target) in list(enumerate(zip(paths, targets, strict=True), 1))[start : start + BATCH]:
            try:
                files.append(read(path, target, title=drawable(path.name, f"image {number}"), max_pixels=max_pixels))
            except (ValueError, OSError) as error:
                yield Shown(path, None, " ".join(str(error).split()))
        if not files:
            continue
        seen = dissect([file.encoded for file in files], teacher, parts, decoder)
        for place, file in enumerate(files):
            picture = portrait(
                decode_square(file.encoded, PORTRAIT_TILE), seen, place, title=file.title, aspect=file.aspect
            )
            yield Shown(file.source, write(file.target, picture))
        sheet += [(file, seen, place) for place, file in enumerate(files)][: MOST_ON_SHEET - len(sheet)]
    if len(sheet) > 1:
        target = choose_targets([Path(SHEET)], folder, taken=[*paths, *targets], suffix="")[0]
        yield Shown(None, write(target, draw_sheet(sheet)))


def read(path: Path, target: Path, *, title: str, max_pixels: int) -> Read:
    """Read a file and decode it once as a check. Raises ValueError or OSError with the reason."""
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    geometry = inspect(encoded, max_pixels=max_pixels)
    return Read(path, title, encoded, geometry.width / geometry.height, target)


def choose_targets(
    paths: Sequence[Path], folder: Path, *, taken: Sequence[Path] = (), suffix: str = "-parts"
) -> list[Path]:
    """A PNG file in `folder` for every path, all different, and none among the paths or `taken`."""
    used = {path.resolve() for path in (*paths, *taken)}
    targets = []
    for path in paths:
        name = CONTROL.sub("_", path.stem)[:LONGEST] + suffix
        number, target = 1, folder / f"{name}.png"
        while target.resolve() in used:
            number += 1
            target = folder / f"{name}-{number}.png"
        used.add(target.resolve())
        targets.append(target)
    return targets


def write(path: Path, picture: bytes) -> Path:
    """Write a picture whole and return its path."""
    with whole_file(path) as file:
        file.write(picture)
    return path


def draw_sheet(sheet: Sequence[tuple[Read, Dissection, int]]) -> bytes:
    """The images side by side, their parts, the decoder's images, and one part a row."""
    tiles = [decode_square(file.encoded, TILE) for file, _, _ in sheet]
    maps = PartMaps(np.stack([seen.labels[place] for _, seen, place in sheet]), sheet[0][1].num_parts)
    rows = [Strip("image", strip(tiles), ""), painted_strip(tiles, maps, "parts")]
    rebuilt = [seen.rebuilt[place] for _, seen, place in sheet if seen.rebuilt is not None]
    if rebuilt:
        rows.append(rebuilt_strip(rebuilt))
    rows += single_part_strips(tiles, maps)
    heads = [shortened(file.title, 15) for file, _, _ in sheet]
    return layout.sheet(rows, heads=heads, legend=part_colours(maps.num_parts))
