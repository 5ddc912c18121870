"""The files that a comparison is made of: exactly those of its arms and seeds, and no others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from evaluation.predictions import Predictions

from shards.files import md5_of, read_json

# Not accuracies: facts about a run, which are not compared.
FACTS = ("test_images", "penalty")

Job = tuple[str, int]
Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Results:
    """What the stages measured. A job is (arm, seed); `parts` is empty where the data has no part labels.

    protocols: the metrics of probe and finetune by job. pretrain: the metrics of pretraining by job. histories and
    finetune_histories: the rows of the training loop by job. teacher_history, refine_history: those of the teacher
    (none where it was a checkpoint) and of part learning. predictions: by job and protocol. sources: job -> stage ->
    MD5 of the metrics that it left, as dvc.lock has it.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    protocols: Mapping[Job, Numbers]
    pretrain: Mapping[Job, Numbers]
    histories: Mapping[Job, Sequence[Numbers]]
    finetune_histories: Mapping[Job, Sequence[Numbers]]
    data: Numbers
    teacher: Numbers
    refine: Numbers
    parts: Numbers
    test_images: int
    teacher_history: Sequence[Numbers] = ()
    refine_history: Sequence[Numbers] = ()
    predictions: Mapping[Job, Mapping[str, "Predictions"]] = field(default_factory=dict)
    sources: Mapping[Job, Mapping[str, str]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of the compared metrics, the headline protocols first."""
        found = self.protocols[self.arms[0], self.seeds[0]]
        return sorted((name for name in found if not _is_fact(name)), key=protocol_order)

    def values(self, arm: str, name: str) -> list[float]:
        """One metric of an arm, a number a seed, in the order of the seeds."""
        return [self.protocols[arm, seed][name] for seed in self.seeds]

    def images_of(self, name: str) -> int:
        """Test images of a protocol: those of its own data set where it has one."""
        data_set, _, _ = name.rpartition("/")
        own = f"{data_set}/test_images"
        return int(self.protocols[self.arms[0], self.seeds[0]].get(own, self.test_images))

    def by_class(self, arm: str, name: str) -> dict[str, float]:
        """Class id -> IoU, mean over the seeds that have it, of a segmentation `SET/HEAD`."""
        found: dict[str, list[float]] = {}
        for seed in self.seeds:
            for key, value in self.protocols[arm, seed].items():
                if key.startswith(f"{name}_iou/"):
                    found.setdefault(key.removeprefix(f"{name}_iou/"), []).append(value)
        return {label: sum(values) / len(values) for label, values in found.items()}

    def confusion(self, arm: str, name: str, classes: int) -> np.ndarray | None:
        """(C, C) how often each true class (row) was called each class (column), over all seeds; None without predictions."""
        counts = np.zeros((classes, classes), dtype=np.int64)
        for predictions in self._predictions(arm, name):
            np.add.at(counts, (predictions.labels, predictions.classes[column_of(name)]), 1)
        return counts if counts.any() else None

    def correct(self, arm: str, name: str) -> np.ndarray | None:
        """(N,) share of the seeds that get each test image right, NaN where none was asked; None without predictions."""
        found = [predictions.correct(column_of(name)) for predictions in self._predictions(arm, name)]
        if not found:
            return None
        told = np.stack(found)
        asked = ~np.isnan(told)
        counts = asked.sum(axis=0)
        return np.where(counts, np.where(asked, told, 0).sum(axis=0) / np.maximum(counts, 1), np.nan)

    def _predictions(self, arm: str, name: str) -> list["Predictions"]:
        every = (self.predictions.get((arm, seed), {}) for seed in self.seeds)
        return [found[name] for found in every if name in found]


def column_of(name: str) -> str:
    """A protocol's name within its own data set."""
    return name.rpartition("/")[2]


def _is_fact(name: str) -> bool:
    return column_of(name) in FACTS or "_iou/" in name


# What the headline of the comparison is about, in the order in which it is told.
HEADLINE = ("finetune_accuracy", "linear_accuracy", "knn_accuracy")
LABELS = {
    "finetune_accuracy": "fine-tuning",
    "linear_accuracy": "linear probe",
    "knn_accuracy": "kNN",
    "finetune_class_accuracy": "fine-tuning, class mean",
    "linear_class_accuracy": "linear probe, class mean",
    "linear_lars_accuracy": "linear probe, MAE's recipe",
    "upernet_miou": "UPerNet mIoU",
    "upernet_pixel_accuracy": "UPerNet pixel accuracy",
    "linear_miou": "linear segmentation mIoU",
    "linear_pixel_accuracy": "linear segmentation pixel accuracy",
    "occluded_part_accuracy": "linear probe, one part away",
    "occluded_random_accuracy": "linear probe, as many random patches away",
}


def label_of(name: str) -> str:
    """A metric's name as people read it."""
    data_set, _, rest = name.rpartition("/")
    if data_set:
        return f"{data_set}: {label_of(rest)}"
    if name.startswith("knn_accuracy_k"):
        return f"kNN, k = {name.removeprefix('knn_accuracy_k')}"
    if name.startswith("low_shot_"):
        return f"linear probe, {name.removeprefix('low_shot_').removesuffix('_accuracy')} % of the labels"
    return LABELS.get(name, words(name))


def words(name: str) -> str:
    """A name from params.yaml or from a metrics file as words."""
    return name.replace("_", " ")


def protocol_order(name: str) -> tuple[int, str]:
    """Sort key: headline protocols in their order, then the rest by name."""
    return (HEADLINE.index(name) if name in HEADLINE else len(HEADLINE), name)


def read_results(
    root: Path,
    *,
    arms: Sequence[str],
    seeds: Sequence[int],
    part_truth: bool,
    optimizers: Sequence[str] = (),
    transfers: Sequence[str] = (),
    segments: Sequence[str] = (),
) -> Results:
    """Read the metrics, histories and predictions of `arms` x `seeds` below `root`; whatever else lies there is ignored.

    optimizers, transfers, segments: of the linear probes as in MAE, and the data sets of the other protocols. Raises
    ValueError, one line that names the file, when one is missing or damaged, or when the jobs of a comparison were not
    measured alike: other metrics, or other test images.
    """
    # pyarrow, which the reader of a finished table does not need.
    from evaluation.predictions import read_predictions

    jobs = [(arm, seed) for arm in arms for seed in seeds]

    def of_jobs(folder: str) -> dict[Job, Any]:
        return {(arm, seed): read_json(root / folder / f"{arm}-{seed}.json") for arm, seed in jobs}

    # (folder below metrics and predictions, what its protocols are called after)
    stages = [("probe", ""), ("finetune", ""), *((f"linear_mae/{name}", "") for name in optimizers)]
    stages += [(f"transfer/{name}", f"{name}/") for name in transfers]
    stages += [(f"segment/{name}", f"{name}/") for name in segments]
    protocols: dict[Job, dict[str, float]] = {job: {} for job in jobs}
    predictions: dict[Job, dict[str, Predictions]] = {job: {} for job in jobs}
    sources: dict[Job, dict[str, str]] = {
        (arm, seed): {"pretrain": md5_of(root / f"metrics/pretrain/{arm}-{seed}.json")} for arm, seed in jobs
    }
    counts: dict[str, set[int]] = {}
    for folder, prefix in stages:
        measured = of_jobs(f"metrics/{folder}")
        _check_alike(measured, root / "metrics" / folder)
        counts.setdefault(prefix, set()).update(int(numbers["test_images"]) for numbers in measured.values())
        for (arm, seed), numbers in measured.items():
            protocols[arm, seed] |= {f"{prefix}{name}": value for name, value in numbers.items()}
            sources[arm, seed][folder] = md5_of(root / "metrics" / folder / f"{arm}-{seed}.json")
            if not folder.startswith("segment/"):
                said = read_predictions(root / "predictions" / folder / f"{arm}-{seed}.parquet")
                predictions[arm, seed] |= {f"{prefix}{name}": said for name in said.classes}
    for found in counts.values():
        if len(found) > 1:
            raise ValueError(
                f"{root / 'metrics'}: tested on {sorted(found)} images; run `dvc repro`, so that all see the same"
            )
    return Results(
        arms=tuple(arms),
        seeds=tuple(seeds),
        protocols=protocols,
        pretrain=of_jobs("metrics/pretrain"),
        histories=of_jobs("history/pretrain"),
        finetune_histories=of_jobs("history/finetune"),
        data=read_json(root / "metrics/prepare_data.json"),
        teacher=read_json(root / "metrics/train_teacher.json"),
        refine=read_json(root / "metrics/refine_parts.json"),
        parts=read_json(root / "metrics/evaluate_parts.json") if part_truth else {},
        test_images=min(counts[""]),
        predictions=predictions,
        sources=sources,
        teacher_history=read_json(root / "history/train_teacher.json"),
        refine_history=read_json(root / "history/refine_parts.json"),
    )


def _check_alike(measured: Mapping[Job, Numbers], folder: Path) -> None:
    first, *others = measured
    for arm, seed in others:
        differing = sorted(measured[first].keys() ^ measured[arm, seed].keys())
        if differing:
            raise ValueError(
                f"{folder / f'{arm}-{seed}.json'}: {differing[0]} is measured for some arms only; run `dvc repro` again"
            )


CURVE_COLUMNS = ("loss", "alpha", "hidden_ratio_std")


def curves_csv(results: Results) -> str:
    """The pretraining histories as CSV for `dvc plots`: arm, seed, step and `CURVE_COLUMNS`, empty where not logged."""
    lines = [",".join(("arm", "seed", "step", *CURVE_COLUMNS))]
    for (arm, seed), history in results.histories.items():
        for row in history:
            cells = (f"{row[name]:.6g}" if name in row else "" for name in CURVE_COLUMNS)
            lines.append(",".join((arm, str(seed), str(int(row["step"])), *cells)))
    return "\n".join(lines) + "\n"
