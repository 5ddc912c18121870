"""The files that a comparison is made of: exactly those of its arms and seeds, and no others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pipeline.predictions import Predictions

from pipeline.files import read_json

# Not accuracies: facts about a run, which are not compared.
FACTS = ("test_images", "penalty")

Job = tuple[str, int]
Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Results:
    """What the stages measured. A job is (arm, seed); `parts` is empty where the data has no part labels.

    protocols: the metrics of probe and finetune by job. pretrain: the metrics of pretraining by job. histories and
    finetune_histories: the rows of the training loop by job. teacher_history, refine_history: those of the teacher
    (none where it was a checkpoint) and of part learning. predictions: by job and stage, probe or finetune.
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

    @property
    def names(self) -> list[str]:
        """The names of the compared metrics, the headline protocols first."""
        found = self.protocols[self.arms[0], self.seeds[0]]
        return sorted((name for name in found if name not in FACTS), key=protocol_order)

    def values(self, arm: str, name: str) -> list[float]:
        """One metric of an arm, a number a seed, in the order of the seeds."""
        return [self.protocols[arm, seed][name] for seed in self.seeds]

    def confusion(self, arm: str, name: str, classes: int) -> np.ndarray | None:
        """(C, C) how often each true class (row) was called each class (column), over all seeds; None without predictions."""
        counts = np.zeros((classes, classes), dtype=np.int64)
        for seed in self.seeds:
            for predictions in self.predictions.get((arm, seed), {}).values():
                if name in predictions.classes:
                    np.add.at(counts, (predictions.labels, predictions.classes[name]), 1)
        return counts if counts.any() else None

    def correct(self, arm: str, name: str) -> np.ndarray | None:
        """(N,) share of the seeds that get each test image right, NaN where none was asked; None without predictions."""
        found = [
            predictions.correct(name)
            for seed in self.seeds
            for predictions in self.predictions.get((arm, seed), {}).values()
            if name in predictions.classes
        ]
        if not found:
            return None
        told = np.stack(found)
        asked = ~np.isnan(told)
        counts = asked.sum(axis=0)
        return np.where(counts, np.where(asked, told, 0).sum(axis=0) / np.maximum(counts, 1), np.nan)


# What the headline of the comparison is about, in the order in which it is told.
HEADLINE = ("finetune_accuracy", "linear_accuracy", "knn_accuracy")
LABELS = {
    "finetune_accuracy": "fine-tuning",
    "linear_accuracy": "linear probe",
    "knn_accuracy": "kNN",
    "finetune_class_accuracy": "fine-tuning, class mean",
    "linear_class_accuracy": "linear probe, class mean",
    "occluded_part_accuracy": "linear probe, one part away",
    "occluded_random_accuracy": "linear probe, as many random patches away",
}


def label_of(name: str) -> str:
    """A metric's name as people read it."""
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


def read_results(root: Path, *, arms: Sequence[str], seeds: Sequence[int], part_truth: bool) -> Results:
    """Read the metrics and histories of `arms` x `seeds` below `root`; whatever else lies there is ignored.

    Raises ValueError, one line that names the file, when one is missing or damaged, or when the jobs of a comparison
    were not measured alike: other metrics, or other test images.
    """
    # pyarrow, which the reader of a finished table does not need.
    from pipeline.predictions import read_predictions

    jobs = [(arm, seed) for arm in arms for seed in seeds]

    def of_jobs(folder: str) -> dict[Job, Any]:
        return {(arm, seed): read_json(root / folder / f"{arm}-{seed}.json") for arm, seed in jobs}

    probe, finetune = of_jobs("metrics/probe"), of_jobs("metrics/finetune")
    protocols = {job: {**probe[job], **finetune[job]} for job in jobs}
    for stage, measured in (("probe", probe), ("finetune", finetune)):
        _check_alike(measured, root / "metrics" / stage)
    counts = sorted({int(numbers["test_images"]) for found in (probe, finetune) for numbers in found.values()})
    if len(counts) > 1:
        raise ValueError(f"{root / 'metrics'}: tested on {counts} images; run `dvc repro`, so that all see the same")
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
        test_images=counts[0],
        predictions={
            (arm, seed): {
                stage: read_predictions(root / "predictions" / stage / f"{arm}-{seed}.parquet")
                for stage in ("probe", "finetune")
            }
            for arm, seed in jobs
        },
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
