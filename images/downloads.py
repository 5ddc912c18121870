"""Public data sets, fetched by torchvision and laid out as folders of image files."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from config.names import did_you_mean
from shards.files import link_or_copy, whole_folder


@dataclass(frozen=True)
class PublicSet:
    """Where torchvision has a data set.

    dataset: class in `torchvision.datasets`. splits: our folder -> its arguments; a set without splits has the one
    folder "". paths: where the paths of the image files come from: `loader` (the class takes a loader, and gets one that
    returns the path), the name of the attribute that lists them, or empty where the set holds arrays, which become PNG files.
    """

    dataset: str
    splits: dict[str, dict[str, Any]]
    paths: str


_TWO = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
_FLAG = {"train": {"train": True}, "test": {"train": False}}
SETS = {
    "aircraft": PublicSet("FGVCAircraft", _THREE, "loader"),
    "cifar10": PublicSet("CIFAR10", _FLAG, ""),
    "cifar100": PublicSet("CIFAR100", _FLAG, ""),
    "dtd": PublicSet("DTD", _THREE, "loader"),
    "eurosat": PublicSet("EuroSAT", {"": {}}, "loader"),
    "flowers102": PublicSet("Flowers102", _THREE, "loader"),
    "food101": PublicSet("Food101", _TWO, "loader"),
    "imagenette": PublicSet("Imagenette", {"train": {"split": "train"}, "test": {"split": "val"}}, "loader"),
    "oxford_pets": PublicSet("OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}, "_images"),
    "stl10": PublicSet("STL10", _TWO, ""),
    "svhn": PublicSet("SVHN", _TWO, ""),
}


def names() -> list[str]:
    """Names of all sets that `download` knows."""
    return sorted(SETS)


def download(name: str, folder: str | Path) -> Path:
    """Fetch a public set into `folder` as `<split>/<class>/*` (or `<class>/*`), and return the folder.

    The folder appears whole. Downloaded files are kept beside it until then, so a broken download resumes.
    Raises ValueError for an unknown name, a folder that is there already, and a failed download.
    """
    if name not in SETS:
        raise ValueError(f"download {name}: unknown{did_you_mean(name, names())}; there are {', '.join(names())}")
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder}: is there already; remove it to fetch it again")
    fetched = folder.with_name(f".{folder.name}.download")
    fetched.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as target:
        for split, arguments in SETS[name].splits.items():
            try:
                dataset = _open(SETS[name], fetched, arguments)
            except (OSError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise ValueError(f"download {name}: {reason}; check the network and try again") from None
            _lay_out(dataset, SETS[name].paths, target / split)
    shutil.rmtree(fetched)
    return folder


def _open(public: PublicSet, root: Path, arguments: dict[str, Any]) -> Any:
    from torchvision import datasets

    if public.paths == "loader":
        arguments = {**arguments, "loader": Path}
    return getattr(datasets, public.dataset)(root, download=True, **arguments)


def _lay_out(dataset: Any, paths: str, target: Path) -> None:
    """Write every image of a torchvision data set below the folder of its class."""
    for index, (image, label) in enumerate(_pairs(dataset, paths)):
        place = target / class_folder(dataset, int(label))
        if isinstance(image, Image.Image):
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{index:06d}.png")
        else:
            link_or_copy(image, place / Path(image).name)


def _pairs(dataset: Any, paths: str) -> Iterator[tuple[Any, Any]]:
    if paths.startswith("_"):
        return zip(getattr(dataset, paths), dataset._labels, strict=True)
    return (dataset[index] for index in range(len(dataset)))


def class_folder(dataset: Any, label: int) -> str:
    """Folder of a class: its name where the set has names (the first of several), else its number."""
    classes = getattr(dataset, "classes", None)
    if classes is None:
        return f"{label:03d}"
    name = classes[label] if isinstance(classes[label], str) else classes[label][0]
    return name.replace("/", "_")
