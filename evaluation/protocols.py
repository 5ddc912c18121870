"""The evaluation protocols in one table: where each number is measured, how it reads, and what it means.

To add a protocol, write a module in evaluation/ that computes it, call it in a stage, and add an entry here: report, table
and summary follow. Stages do not import this table, so that a new entry or another label reruns no evaluation.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any


@dataclass(frozen=True)
class Stage:
    """A stage that evaluates one arm and seed, in `metrics/NAME/ARM-SEED.json`, or `metrics/NAME/ITEM/ARM-SEED.json`.

    items: the parameter that lists its ITEMs, if it has any. own_data: each item is a data set with test images of its own,
    and its name precedes its protocols'. predictions: keeps the predicted class of every test image.
    """

    items: str | None = None
    own_data: bool = False
    predictions: bool = True


STAGES = {
    "probe": Stage(),
    "finetune": Stage(),
    "linear_mae": Stage(items="linear_mae.optimizers"),
    "transfer": Stage(items="transfer.sets", own_data=True),
    "segment": Stage(items="segment.sets", own_data=True, predictions=False),
}


@dataclass(frozen=True)
class Protocol:
    """A number that a stage measures for every arm and seed: a share in [0, 1], shown in per cent.

    label: its name for readers; `{}` stands for what `*` matches in the key. stages: the stages that measure it. headline:
    leads the table and the verdict.
    """

    label: str
    stages: tuple[str, ...]
    headline: bool = False
    higher_is_better: bool = True


FROZEN, TUNED = ("probe", "transfer"), ("finetune", "transfer")
# Key in the metrics files -> protocol. The headline protocols stand in the order in which they are shown.
PROTOCOLS = {
    "finetune_accuracy": Protocol("fine-tuning", TUNED, headline=True),
    "linear_accuracy": Protocol("linear probe", FROZEN, headline=True),
    "knn_accuracy": Protocol("kNN", FROZEN, headline=True),
    "knn_accuracy_k*": Protocol("kNN, k = {}", FROZEN),
    "finetune_class_accuracy": Protocol("fine-tuning, class mean", ("finetune",)),
    "linear_class_accuracy": Protocol("linear probe, class mean", FROZEN),
    "low_shot_*_accuracy": Protocol("linear probe, {} % of the labels", FROZEN),
    "occluded_part_accuracy": Protocol("linear probe, one part removed", ("probe",)),
    "occluded_random_accuracy": Protocol("linear probe, as many random patches removed", ("probe",)),
    "linear_lars_accuracy": Protocol("linear probe, MAE's recipe", ("linear_mae",)),
    "linear_miou": Protocol("linear segmentation mIoU", ("segment",)),
    "linear_pixel_accuracy": Protocol("linear segmentation pixel accuracy", ("segment",)),
    "upernet_miou": Protocol("UPerNet mIoU", ("segment",)),
    "upernet_pixel_accuracy": Protocol("UPerNet pixel accuracy", ("segment",)),
}
HEADLINE = [key for key, protocol in PROTOCOLS.items() if protocol.headline]
# What metrics files hold besides: facts about a run, and the IoU of each class.
FACTS = ["test_images", "penalty"]
CLASS_IOU = r"(?P<segmentation>.+)_iou/(?P<label>\d+)"


@dataclass(frozen=True)
class Source:
    """A folder below metrics/ with a file for every arm and seed; `prefix` precedes the names of its protocols."""

    folder: str
    stage: str
    prefix: str = ""

    @property
    def has_predictions(self) -> bool:
        """Whether the same folder lies below predictions/."""
        return STAGES[self.stage].predictions


# Of every comparison.
ALWAYS = tuple(Source(name, name) for name, stage in STAGES.items() if stage.items is None)


def sources(params: Any) -> Iterator[Source]:
    """The folders of all evaluations that params.yaml asks for."""
    for name, stage in STAGES.items():
        if stage.items is None:
            yield Source(name, name)
            continue
        for item in attrgetter(stage.items)(params):
            yield Source(f"{name}/{item}", name, f"{item}/" if stage.own_data else "")


def find(name: str) -> tuple[Protocol, str]:
    """The protocol of a metric, and its label; `SET/` before a name is the data set. ValueError for an unknown metric."""
    data_set, _, key = name.rpartition("/")
    for pattern, protocol in PROTOCOLS.items():
        match = re.fullmatch(re.escape(pattern).replace(r"\*", r"([0-9.]+)"), key)
        if match:
            label = protocol.label.format(*match.groups())
            return protocol, f"{data_set}: {label}" if data_set else label
    raise ValueError(f"{name}: no such protocol; add an entry to evaluation/protocols.py")


def label_of(name: str) -> str:
    """The protocol's name for readers."""
    return find(name)[1]
