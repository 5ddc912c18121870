"""The files that a comparison reads: exactly those of its arms and seeds, and no others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evaluation.protocols import ALWAYS, CLASS_IOU, FACTS, HEADLINE, Source, find
from shards.files import md5_of, read_json

if TYPE_CHECKING:
    from evaluation.predictions import Predictions

CURVES = ("loss", "alpha", "hidden_ratio_std")
Job = tuple[str, int]
Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Results:
    """What the stages measured.

    scores: one row for each arm, protocol and seed, with columns arm, seed, data_set, protocol, value (a share in [0, 1])
    and test_images; arms in their given order, headline protocols first. class_iou: the same of single classes, with
    columns segmentation and label. pretraining, finetuning: a row a logged step, with columns arm and seed.
    final_losses: pretraining loss at the end, by arm, of the arms that have one. predictions: job -> protocol ->
    predictions. md5s: a row a job and a column a stage, the MD5 of its metrics as in dvc.lock. data, teacher, refine,
    parts: metrics of these stages, `parts` empty if the data has no part labels. teacher_history (empty for a downloaded
    checkpoint) and refine_history: rows of those trainings.
    """

    scores: pd.DataFrame
    class_iou: pd.DataFrame
    pretraining: pd.DataFrame
    finetuning: pd.DataFrame
    final_losses: Numbers
    predictions: Mapping[Job, Mapping[str, "Predictions"]]
    md5s: pd.DataFrame
    data: Numbers
    teacher: Numbers
    refine: Numbers
    parts: Numbers = field(default_factory=dict)
    teacher_history: Sequence[Numbers] = ()
    refine_history: Sequence[Numbers] = ()

    @property
    def arms(self) -> list[str]:
        """The arms, in their given order."""
        return list(self.scores["arm"].unique())

    @property
    def seeds(self) -> list[int]:
        """The seeds, in their given order."""
        return list(self.scores["seed"].unique())

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
    root: Path,
    *,
    arms: Sequence[str],
    seeds: Sequence[int],
    part_truth: bool,
    sources: Sequence[Source] = ALWAYS,
) -> Results:
    """Read metrics, histories and predictions of `arms` x `seeds` below `root`; other files there are ignored.

    sources: the evaluations, as `evaluation.protocols.sources` lists them. Raises ValueError, one line that names the file,
    if one is missing or damaged, if jobs were measured differently, or if a metric is no known protocol.
    """
    # pyarrow, which the reader of a finished table does not need.
    from evaluation.predictions import read_predictions

    jobs = [(arm, seed) for arm in arms for seed in seeds]
    metrics = pd.concat([_read_metrics(root, source, jobs) for source in sources], ignore_index=True)
    _check_test_images(metrics, root)
    of_class = metrics["protocol"].str.extract(CLASS_IOU)
    is_class = of_class["label"].notna()
    predictions: dict[Job, dict[str, Predictions]] = {job: {} for job in jobs}
    for source in (source for source in sources if source.has_predictions):
        for (arm, seed), of_job in predictions.items():
            of_source = read_predictions(root / "predictions" / source.folder / f"{arm}-{seed}.parquet")
            of_job |= {f"{source.prefix}{name}": of_source for name in of_source.classes}
    losses = pd.Series({job: read_json(_file(root / "metrics/pretrain", job)).get("loss") for job in jobs}, dtype=float)
    return Results(
        scores=_in_order(metrics[~is_class], arms),
        class_iou=metrics[is_class].join(of_class),
        pretraining=_read_histories(root / "history/pretrain", jobs),
        finetuning=_read_histories(root / "history/finetune", jobs),
        final_losses={str(arm): loss for arm, loss in losses.groupby(level=0, sort=False).mean().dropna().items()},
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


def _read_metrics(root: Path, source: Source, jobs: Sequence[Job]) -> pd.DataFrame:
    """Rows (arm, seed, data_set, protocol, value, test_images) of one source, whose jobs all have the same known metrics."""
    folder = root / "metrics" / source.folder
    table = pd.DataFrame({job: read_json(_file(folder, job)) for job in jobs}).T.rename_axis(["arm", "seed"])
    is_missing: Any = table.isna().stack()
    for *job, name in is_missing.index[is_missing]:
        raise ValueError(f"{_file(folder, job)}: {name} is missing and other jobs have it; run `dvc repro` again")
    metrics = table.drop(columns=FACTS, errors="ignore")
    for name in metrics.columns[~metrics.columns.str.fullmatch(CLASS_IOU)]:
        if source.stage not in find(name)[0].stages:
            raise ValueError(f"{folder}: {name} is no protocol of stage {source.stage} in evaluation/protocols.py")
    rows = metrics.add_prefix(source.prefix).melt(var_name="protocol", value_name="value", ignore_index=False)
    return rows.assign(data_set=source.prefix, test_images=table["test_images"].astype(int)).reset_index()


def _check_test_images(metrics: pd.DataFrame, root: Path) -> None:
    """ValueError unless all protocols of a data set have the same number of test images."""
    for _, counts in metrics.groupby("data_set")["test_images"]:
        if counts.nunique() > 1:
            raise ValueError(
                f"{root / 'metrics'}: tested on {sorted(counts.unique().tolist())} images; run `dvc repro`, so that all "
                "protocols see the same ones"
            )


def _in_order(scores: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Sorted by arm as given and then by protocol, headline protocols first."""
    names = sorted(
        scores["protocol"].unique(),
        key=lambda name: (HEADLINE.index(name) if name in HEADLINE else len(HEADLINE), name),
    )
    order = {"arm": list(arms), "protocol": names}
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
