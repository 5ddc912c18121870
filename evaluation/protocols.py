"""The evaluation protocols in one table: where each number is measured, how it reads, and what it means.

To add a protocol, write a module in evaluation/ that computes it, call it in a stage, and add an entry here: report, table
and summary follow. Stages do not import this table, so that a new entry or another label reruns no evaluation.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any


@dataclass(frozen=True)
class Stage:
    """A stage that evaluates one arm and seed, in `metrics/NAME/ARM-SEED.json`, or `metrics/NAME/ITEM/ARM-SEED.json`.

    on_labels: judges by the class labels of `data.path`, and does not run without. items: the parameter that lists its ITEMs, if
    it has any. own_data: each item is a data set with test images of its own, and its name precedes its protocols'.
    predictions: keeps the predicted class of every test image.
    """

    on_labels: bool = False
    items: str | None = None
    own_data: bool = False
    predictions: bool = True


STAGES = {
    "probe": Stage(),
    "finetune": Stage(on_labels=True),
    "linear_mae": Stage(on_labels=True, items="linear_mae.optimizers"),
    "transfer": Stage(items="transfer.sets", own_data=True),
    "segment": Stage(items="segment.sets", own_data=True, predictions=False),
}


@dataclass(frozen=True)
class Protocol:
    """A number that a stage measures for every arm and seed: a share in [0, 1], shown in per cent.

    label: its name for readers; `{}` stands for what `*` matches in the key, as `*` does in floor. stages: the stages that
    measure it. headline: leads the table and the verdict. class_mean: a mean over the classes, not over the images. floor: the
    fact in the same file that is the score of always answering the largest class, and then no predictions are kept; without
    it the labels of the predictions tell it. `NAME_images` beside `NAME_floor`: the test images that were asked about.
    """

    label: str
    stages: tuple[str, ...]
    headline: bool = False
    higher_is_better: bool = True
    class_mean: bool = False
    floor: str = ""


FROZEN, TUNED, SEGMENTED = ("probe", "transfer"), ("finetune", "transfer"), ("segment",)
# Key in the metrics files -> protocol. The headline protocols stand in the order in which they are shown.
PROTOCOLS = {
    "finetune_accuracy": Protocol("fine-tuning", TUNED, headline=True),
    "linear_accuracy": Protocol("linear probe", FROZEN, headline=True),
    "knn_accuracy": Protocol("kNN", FROZEN, headline=True),
    "knn_accuracy_k*": Protocol("kNN, k = {}", FROZEN),
    "attributes_accuracy": Protocol("attributes, mean", ("probe",), headline=True, floor="attributes_floor"),
    "attribute_*_accuracy": Protocol("attribute {}", ("probe",), floor="attribute_*_floor"),
    "attentive_accuracy": Protocol("attentive probe", FROZEN),
    "dense_miou": Protocol("linear probe of patches for true parts, mIoU", ("probe",), floor="dense_floor"),
    "finetune_class_accuracy": Protocol("fine-tuning, class mean", ("finetune",), class_mean=True),
    "linear_class_accuracy": Protocol("linear probe, class mean", FROZEN, class_mean=True),
    "low_shot_*_accuracy": Protocol("linear probe, {} % of the labels", FROZEN),
    "linear_lars_accuracy": Protocol("linear probe, MAE's recipe", ("linear_mae",)),
    "linear_miou": Protocol("linear head mIoU", SEGMENTED, headline=True, floor="floor_miou"),
    "linear_pixel_accuracy": Protocol("linear head pixel accuracy", SEGMENTED, floor="floor_pixel_accuracy"),
    "upernet_miou": Protocol("UPerNet mIoU", SEGMENTED, headline=True, floor="floor_miou"),
    "upernet_pixel_accuracy": Protocol("UPerNet pixel accuracy", SEGMENTED, floor="floor_pixel_accuracy"),
}
HEADLINE = [key for key, protocol in PROTOCOLS.items() if protocol.headline]
# What metrics files hold besides: facts about a run, and the IoU of each class.
FACTS = r"penalty|rankme|floor_.+|.+_floor|.+_images"
CLASS_IOU = r"(?P<segmentation>.+)_iou/(?P<label>\d+)"


@dataclass(frozen=True)
class Source:
    """A folder below metrics/ with a file for every arm and seed; `prefix` precedes the names of its protocols."""

    folder: str
    stage: str
    prefix: str = ""

    @property
    def has_predictions(self) -> bool:
        """Whether the same folder lies below metrics/predictions/."""
        return STAGES[self.stage].predictions


def sources(params: Any) -> Iterator[Source]:
    """The folders of all evaluations that params.yaml asks for."""
    for name, stage in STAGES.items():
        if stage.on_labels and not params.data.labels:
            continue
        if stage.items is None:
            yield Source(name, name)
            continue
        for item in attrgetter(stage.items)(params):
            yield Source(f"{name}/{item}", name, f"{item}/" if stage.own_data else "")


def find(name: str) -> tuple[Protocol, str]:
    """The protocol of a metric, and its label; `SET/` before a name is the data set. ValueError for an unknown metric."""
    data_set, _, key = name.rpartition("/")
    for pattern, protocol in PROTOCOLS.items():
        match = re.fullmatch(re.escape(pattern).replace(r"\*", r"([\w.-]+)"), key)
        if match:
            label = protocol.label.format(*match.groups())
            protocol = replace(protocol, floor=protocol.floor.replace("*", "".join(match.groups())))
            return protocol, f"{data_set}: {label}" if data_set else label
    raise ValueError(f"{name}: no such protocol; add an entry to evaluation/protocols.py")


def label_of(name: str) -> str:
    """The protocol's name for readers."""
    return find(name)[1]
