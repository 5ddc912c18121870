"""MLflow's saved views of our runs, which its page lists under `Views`, and the addresses that open them.

MLflow keeps a view as a tag of the experiment: filter, order, columns. Without one its page shows every stage of every
state, and without `workflowType` that of language models. The names of columns and settings are those of its page, 3.17.
"""

import json
from collections.abc import Iterable
from typing import Any

PREFIX = "mlflow.sharedViewState."
# Of an address: the page of training runs, and not that of language models.
TRAINING = "workflowType=machine_learning"
RESULTS, PRETRAINING = "results", "pretraining"
DESCRIPTION = "attributes.`Description`"
# Pixels, so that the names of metrics can be told apart: MLflow's own columns have 100.
PADDING, LETTER = 40, 8


def views(metrics: Iterable[str] = ()) -> dict[str, str]:
    """The tags of the experiment: the states with these metrics, and the curves of every pretraining."""
    widths = {f"metrics.`{name}`": PADDING + LETTER * len(name) for name in metrics}
    columns = [DESCRIPTION, *widths]
    results = {
        "searchFilter": 'tags.stage = "pipeline"',
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", "runDateAndNestInfo", *columns],
        "columnWidths": widths,
    }
    pretraining = {
        "searchFilter": 'tags.stage = "pretrain"',
        # By the date MLflow would add the runs above these.
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        "selectedColumns": ["metrics.`training/loss`"],
    }
    return dict((_tag(RESULTS, "Results", results), _tag(PRETRAINING, "Pretraining", pretraining)))


def _tag(key: str, name: str, state: dict[str, Any]) -> tuple[str, str]:
    return PREFIX + key, json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


def runs_page(server: str, experiment: str, view: str = RESULTS, *, charts: bool = False) -> str:
    """The address of a view at a server, the table of runs or their charts; that of all experiments without an `experiment`."""
    if not experiment:
        return f"{server}/#/experiments"
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"{server}/#/experiments/{experiment}/runs?{TRAINING}&viewStateShareKey={view}{mode}"


def run_page(server: str, experiment: str, run: str, artifact: str = "") -> str:
    """The address of a run's page, or of an artifact on it."""
    place = f"{run}/artifacts/{artifact}" if artifact else run
    return f"{server}/#/experiments/{experiment}/runs/{place}?{TRAINING}"
