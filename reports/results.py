"""The files that a comparison reads: exactly those of its arms and seeds, and no others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evaluation.protocols import CLASS_IOU, FACTS, HEADLINE, Protocol, Source, find
from shards.files import md5_of, read_json

if TYPE_CHECKING:
    from evaluation.predictions import Predictions

CURVES = ("loss", "alpha", "hidden_ratio_std", "hidden_foreground", "knn_accuracy", "rankme")
# value: a share in [0, 1]. largest_class, chance: the scores of always answering the test set's largest class, and of guessing
# among its classes, NaN for a mIoU. image: what one test image is worth.
SCORES = ["arm", "seed", "data_set", "protocol", "value", "test_images", "largest_class", "chance", "image"]
Job = tuple[str, int]
Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Results:
    """What the stages measured.

    scores: one row for each arm, protocol and seed, with columns `SCORES`; arms in their given order, headline protocols
    first; empty if nothing has labels to judge by. class_iou: the same of single classes, with columns segmentation and
    label. pretraining, finetuning: a row a logged step, with columns arm and seed; no finetuning without class labels.
    final_losses: pretraining loss at the end, by arm, of the arms that have one. val_losses: a row an arm, `mean`
    and `se` over seeds of its loss on val under random masks; rankme: the same of the features of test. predictions: job ->
    protocol -> predictions. md5s: a row a job and a column a stage, the MD5 of its metrics as in dvc.lock. data, teacher,
    refine, parts: metrics of these stages, `parts` empty if the data has no part labels. teacher_history (empty for a
    downloaded checkpoint) and refine_history: rows of those trainings.
    """

    arms: list[str]
    seeds: list[int]
    scores: pd.DataFrame
    class_iou: pd.DataFrame
    pretraining: pd.DataFrame
    finetuning: pd.DataFrame
    final_losses: Numbers
    val_losses: pd.DataFrame
    rankme: pd.DataFrame
    predictions: Mapping[Job, Mapping[str, "Predictions"]]
    md5s: pd.DataFrame
    data: Numbers
    teacher: Numbers
    refine: Numbers
    parts: Numbers = field(default_factory=dict)
    teacher_history: Sequence[Numbers] = ()
    refine_history: Sequence[Numbers] = ()

    def confusion(self, arm: str, protocol: str, classes: int) -> np.ndarray | None:
        """(C, C) how often each true class (row) is predicted as each class (column), over all seeds.

        None without predictions.
        """
        counts = np.zeros((classes, classes), dtype=np.int64)
        for predictions in self._predictions(arm, protocol):
            np.add.at(counts, (predictions.labels, predictions.classes[_column(protocol)]), 1)
        return counts if counts.any() else None

    def correct(self, arm: str, protocol: str) -> np.ndarray | None:
        """(N,) share of the seeds that are right about each test image, NaN for an image that the protocol leaves out.

        None without predictions.
        """
        by_seed = [predictions.correct(_column(protocol)) for predictions in self._predictions(arm, protocol)]
        return pd.DataFrame(by_seed).mean().to_numpy() if by_seed else None

    def _predictions(self, arm: str, protocol: str) -> list["Predictions"]:
        jobs = (self.predictions.get((arm, seed), {}) for seed in self.seeds)
        return [predictions[protocol] for predictions in jobs if protocol in predictions]


def _column(protocol: str) -> str:
    """A protocol's name without its data set."""
    return protocol.rpartition("/")[2]


def words(name: str) -> str:
    """A name from params.yaml or a metrics file as words."""
    return name.replace("_", " ")


def read_results(
    root: Path, *, arms: Sequence[str], seeds: Sequence[int], part_truth: bool, sources: Sequence[Source]
) -> Results:
    """Read metrics, histories and predictions of `arms` x `seeds` below `root`; other files there are ignored.

    sources: the evaluations, as `evaluation.protocols.sources` lists them. Raises ValueError, one line that names the file,
    if one is missing or damaged, if jobs were measured differently, or if a metric is no known protocol.
    """
    # pyarrow, which the reader of a finished table does not need.
    from evaluation.predictions import read_predictions

    jobs = [(arm, seed) for arm in arms for seed in seeds]
    predictions: dict[Job, dict[str, Predictions]] = {job: {} for job in jobs}
    tables = []
    for source in sources:
        labels = None
        for (arm, seed), of_job in predictions.items() if source.has_predictions else ():
            of_source = read_predictions(root / "metrics/predictions" / source.folder / f"{arm}-{seed}.parquet")
            of_job |= {f"{source.prefix}{name}": of_source for name in of_source.classes}
            labels = of_source.labels
        tables.append(_read_metrics(root, source, jobs, labels))
    metrics = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=SCORES, dtype=object)
    _check_test_images(metrics, root)
    of_class = metrics["protocol"].str.extract(CLASS_IOU)
    is_class = of_class["label"].notna()
    pretrain = pd.DataFrame({job: read_json(_file(root / "metrics/pretrain", job)) for job in jobs}).T
    losses = pretrain.reindex(columns=["loss", "val_loss"]).astype(float).groupby(level=0, sort=False)
    probed = jobs if any(source.stage == "probe" for source in sources) else []
    effective = pd.Series(
        {job: read_json(_file(root / "metrics/probe", job)).get("rankme") for job in probed}, dtype=float
    )
    ranks = effective.groupby([arm for arm, _ in probed], sort=False)
    has_finetuning = any(source.stage == "finetune" for source in sources)
    return Results(
        arms=list(arms),
        seeds=list(seeds),
        scores=_in_order(metrics[~is_class], arms),
        class_iou=metrics[is_class].join(of_class),
        pretraining=_read_histories(root / "history/pretrain", jobs),
        finetuning=_read_histories(root / "history/finetune", jobs if has_finetuning else ()),
        final_losses={str(arm): loss for arm, loss in losses["loss"].mean().dropna().items()},
        val_losses=pd.DataFrame({"mean": losses["val_loss"].mean(), "se": losses["val_loss"].sem()}),
        rankme=pd.DataFrame({"mean": ranks.mean(), "se": ranks.sem()}),
        predictions=predictions,
        md5s=pd.DataFrame(
            {
                folder: {job: md5_of(_file(root / "metrics" / folder, job)) for job in jobs}
                for folder in ("pretrain", *(source.folder for source in sources))
            }
        ),
        data=read_json(root / "metrics/prepare_data.json"),
        teacher=read_json(root / "metrics/train_teacher.json"),
        refine=read_json(root / "metrics/refine_parts.json"),
        parts=read_json(root / "metrics/evaluate_parts.json") if part_truth else {},
        teacher_history=read_json(root / "history/train_teacher.json"),
        refine_history=read_json(root / "history/refine_parts.json"),
    )


def _file(folder: Path, job: Sequence[str | int]) -> Path:
    arm, seed = job
    return folder / f"{arm}-{seed}.json"


def _read_metrics(root: Path, source: Source, jobs: Sequence[Job], labels: np.ndarray | None) -> pd.DataFrame:
    """Rows `SCORES` of one source, whose jobs all have the same known metrics. labels: (N,) of its test images."""
    folder = root / "metrics" / source.folder
    table = pd.DataFrame({job: read_json(_file(folder, job)) for job in jobs}).T.rename_axis(["arm", "seed"])
    is_missing: Any = table.isna().stack()
    for *job, name in is_missing.index[is_missing]:
        raise ValueError(f"{_file(folder, job)}: {name} is missing and other jobs have it; run `dvc repro` again")
    facts = table.iloc[0].to_dict()
    metrics = table.loc[:, ~table.columns.str.fullmatch(FACTS)]
    if metrics.empty:
        return pd.DataFrame(columns=SCORES, dtype=object)
    scales = {}
    for name in metrics.columns[~metrics.columns.str.fullmatch(CLASS_IOU)]:
        protocol, _ = find(name)
        if source.stage not in protocol.stages:
            raise ValueError(f"{folder}: {name} is no protocol of stage {source.stage} in evaluation/protocols.py")
        if protocol.floor and protocol.floor not in table:
            raise ValueError(f"{folder}: {protocol.floor} is missing; run `dvc repro` again")
        scales[name] = _scale(protocol, facts, labels)
    rows = metrics.melt(var_name="protocol", value_name="value", ignore_index=False)
    scale = pd.DataFrame(scales, index=["largest_class", "chance", "image"]).T
    rows = rows.assign(data_set=source.prefix, test_images=table["test_images"].astype(int)).join(scale, on="protocol")
    return rows.assign(protocol=source.prefix + rows["protocol"]).reset_index()


def _scale(protocol: Protocol, facts: Mapping[Any, float], labels: np.ndarray | None) -> tuple[float, float, float]:
    """`largest_class`, `chance` and `image` of a protocol. An image of the smallest class moves a class mean most."""
    if protocol.floor or labels is None:
        images = facts.get(protocol.floor.replace("_floor", "_images"), facts["test_images"])
        return facts[protocol.floor], np.nan, 1 / images
    counts = np.unique(labels, return_counts=True)[1]
    chance = 1 / len(counts)
    if protocol.class_mean:
        return chance, chance, chance / counts.min()
    return counts.max() / counts.sum(), chance, 1 / counts.sum()


def _check_test_images(metrics: pd.DataFrame, root: Path) -> None:
    """ValueError unless all protocols of a data set have the same number of test images."""
    for _, counts in metrics.groupby("data_set")["test_images"]:
        if counts.nunique() > 1:
            raise ValueError(
                f"{root / 'metrics'}: tested on {sorted(counts.unique().tolist())} images; run `dvc repro`, so that all "
                "protocols see the same ones"
            )


def _in_order(scores: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Sorted by arm as given, then by data set, the own one first, and then by protocol, headline protocols first."""

    def place(name: str) -> tuple[str, int, str]:
        data_set, _, key = name.rpartition("/")
        return data_set, HEADLINE.index(key) if key in HEADLINE else len(HEADLINE), key

    order = {"arm": list(arms), "protocol": sorted(scores["protocol"].unique(), key=place)}
    return scores.sort_values(
        ["arm", "protocol"], key=lambda column: column.map(order[str(column.name)].index), ignore_index=True
    )


def _read_histories(folder: Path, jobs: Sequence[Job]) -> pd.DataFrame:
    return pd.DataFrame(
        [{"arm": job[0], "seed": job[1], **row} for job in jobs for row in read_json(_file(folder, job))]
    )


def curves_csv(results: Results) -> str:
    """The pretraining histories as CSV for `dvc plots`: arm, seed, step and `CURVES`, empty where not logged."""
    columns = results.pretraining.reindex(columns=["arm", "seed", "step", *CURVES])
    return columns.to_csv(index=False, float_format="%.6g", lineterminator="\n")
