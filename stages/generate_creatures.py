"""The built-in data set: pictures of animals, their part labels, and the table of their attributes.

Writes data/creatures: images/SPLIT/SPECIES/INDEX.png, masks/SPLIT/SPECIES/INDEX.png (one channel, label ids),
classes.txt (line n names label n; 0 is background) and attributes.csv: path, species, sub-species, mark, and the shape of each
part.
"""

import csv
from pathlib import Path

from PIL import Image

from config.params import load_params
from images.creatures.anatomy import PARTS
from images.creatures.drawing import SPLITS, draw
from jobs.progress import progress
from jobs.stage import run
from shards.files import whole_folder, write_text

FOLDER = Path("data/creatures")


def generate(
    folder: Path,
    *,
    seed: int,
    train: int,
    test: int,
    image_size: int,
    max_clutter: int,
    occlusion: float,
    coherence: float = 1.0,
) -> None:
    """Draw `train` + `test` pictures into `folder`, which appears whole or not at all."""
    jobs = [(split, index) for split, count in zip(SPLITS, (train, test), strict=True) for index in range(count)]
    rows: list[dict[str, str]] = []
    with whole_folder(folder) as target:
        for split, index in progress(jobs, total=len(jobs), label="generate_creatures"):
            picture = draw(
                seed=seed,
                split=split,
                index=index,
                size=image_size,
                max_clutter=max_clutter,
                occlusion=occlusion,
                coherence=coherence,
            )
            name = Path(split, picture.species, f"{index:05d}.png")
            for kind, pixels in (("images", picture.image), ("masks", picture.labels)):
                path = target / kind / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, compress_level=1)
            rows.append({"path": Path("images", name).as_posix(), "species": picture.species, **picture.attributes})
        write_text(target / "classes.txt", "".join(f"{part}\n" for part in PARTS))
        with open(target / "attributes.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


def main() -> None:
    """`python -m stages.generate_creatures`."""
    generate(FOLDER, **load_params().creatures.model_dump())


if __name__ == "__main__":
    run(main)
