import io
import subprocess
import sys

import pytest
from rich.console import Console

from reports.comparison import compare, flat_metrics, to_csv
from reports.results import read_results
from reports.table import part_line, print_summary
from shards.files import write_json, write_text


@pytest.fixture(scope="module")
def root(outs, tmp_path_factory):
    """A folder with the report's numbers and nothing else."""
    folder = tmp_path_factory.mktemp("summary")
    results = read_results(outs, arms=("semmae", "mae", "raw_attention"), seeds=(0, 1), part_truth=True)
    rows = compare(results, baseline="mae", confidence=0.95, resamples=50)
    write_text(folder / "report/comparison.csv", to_csv(rows))
    parts = {f"parts/{name}": value for name, value in results.parts.items()}
    write_json(folder / "report/metrics.json", {**flat_metrics(rows), **parts})
    return folder


def printed(root):
    out = io.StringIO()
    print_summary(root, "sqlite:///tracking/mlflow.db", Console(file=out, width=80, highlight=False))
    return out.getvalue()


def test_print_summary__says_all_on_a_plain_terminal(root):
    text = printed(root)
    for words in (
        "12 test images", "over 2 seeds", "fine-tuning", "linear probe", "kNN", "semmae", "raw_attention", "baseline",
        "semmae against mae:", "a direction at most", "learned 0.30", "position clusters 0.19", "report.html",
        "mlflow ui", "masks/learned",
    ):  # fmt: skip
        assert words in text, words
    assert "\x1b" not in text


def test_print_summary__keeps_a_verdict_on_one_line(root):
    table = [line for line in printed(root).splitlines() if "baseline" in line or "shown" in line]
    assert all(len(line) <= 80 for line in table)
    assert sum(line.count("no difference shown") for line in table) == printed(root).count("shown") - sum(
        line.count("shown") for line in printed(root).splitlines() if "against" in line
    )


def test_print_summary__without_a_report_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match=r"comparison\.csv: not found; run `dvc repro`"):
        print_summary(tmp_path, "sqlite:///tracking/mlflow.db")


def test_part_line__is_absent_without_part_labels():
    assert part_line({"semmae/knn_accuracy/mean": 0.4}) is None


def test_print_summary__needs_no_heavy_import(root):
    code = (
        "import pathlib, sys; from reports.table import print_summary; print_summary(pathlib.Path(sys.argv[1]), 'sqlite:///t.db')\n"
        "heavy = {'torch', 'scipy', 'matplotlib', 'mlflow', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, str(root)], check=True, capture_output=True)
