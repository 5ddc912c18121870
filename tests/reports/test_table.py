import io
import subprocess
import sys

import pytest
from rich.console import Console

from reports.comparison import NO_ACCURACY, VALIDATION, WHERE_TO_JUDGE, compare, flat_metrics, to_csv
from reports.results import read_results
from reports.table import part_line, print_summary
from shards.files import write_json, write_text
from tests.reports.conftest import ARMS, BIRDS, MEASURED, OWN, PROBE, STREETS, WITHOUT_CLASSES, write_metrics_of


@pytest.fixture(scope="module")
def root(outs, tmp_path_factory):
    """A folder with the report's numbers and nothing else."""
    folder = tmp_path_factory.mktemp("summary")
    results = read_results(outs, arms=("semmae", "mae", "raw_attention"), seeds=(0, 1), part_truth=True, sources=OWN)
    rows = compare(results, baseline="mae", confidence=0.95, resamples=50)
    write_text(folder / "report/comparison.csv", to_csv(rows))
    parts = {f"parts/{name}": value for name, value in results.parts.items()}
    write_json(folder / "report/metrics.json", {**flat_metrics(rows), **parts})
    return folder


def printed(root, width=80):
    out = io.StringIO()
    print_summary(root, "sqlite:///[lab]/mlflow.db", Console(file=out, width=width, highlight=False))
    return out.getvalue()


def test_print_summary__says_all_on_a_plain_terminal(root):
    text = printed(root)
    for words in (
        "12 test images", "over 2 seeds", "fine-tuning", "linear probe", "kNN", "semmae", "raw_attention", "baseline",
        "semmae against mae:", "a direction at most", "learned 0.30", "position clusters 0.19", "report.html",
        "mlflow ui --backend-store-uri sqlite:///[lab]/mlflow.db", "masks/learned",
    ):  # fmt: skip
        assert words in text, words
    assert "\x1b" not in text


def test_print_summary__names_the_page_of_a_server_that_is_up(root):
    out = io.StringIO()
    print_summary(root, "http://host:5000/#/page", Console(file=out, width=80))
    assert "http://host:5000/#/page" in out.getvalue() and "mlflow ui" not in out.getvalue()


def test_print_summary__keeps_a_verdict_on_one_line(root):
    table = [line for line in printed(root).splitlines() if "against" not in line]
    assert sum(line.count("no difference shown") for line in table) == sum(line.count("shown") for line in table) > 0


@pytest.mark.parametrize("width", [120, 60, 40])
def test_print_summary__cuts_nothing_however_narrow_the_terminal(root, width):
    text = printed(root, width)
    for words in ("semmae", "mae", "raw_attention", "fine-tuning", "linear probe", "kNN", "no difference shown"):
        assert words in text, words
    assert "…" not in text and text.count("largest class") == (1 if width == 120 else 3)
    assert all(
        len(line) <= width for line in text.splitlines() if "±" in line and "seeds" not in line and "points" not in line
    )


def test_print_summary__says_what_always_answering_one_class_and_guessing_score(root):
    lines = {line[:13].strip(): line[13:].split() for line in printed(root).splitlines()}
    assert lines["largest class"] == lines["chance"] == ["33.3"] * 3


def summary_of(folder, sources):
    """What is printed of a comparison by these sources."""
    write_metrics_of(folder, ARMS, (0, 1), sources=sources)
    results = read_results(folder, arms=ARMS, seeds=(0, 1), part_truth=False, sources=sources)
    rows = compare(results, baseline="mae", confidence=0.95, resamples=50)
    write_text(folder / "report/comparison.csv", to_csv(rows))
    losses = {f"{arm}/val_loss/mean": value for arm, value in results.val_losses["mean"].items()}
    write_json(folder / "report/metrics.json", {**flat_metrics(rows), **losses})
    return printed(folder)


def test_print_summary__without_labels_there_is_no_accuracy(tmp_path):
    text = summary_of(tmp_path, ())
    for words in (NO_ACCURACY, WHERE_TO_JUDGE, VALIDATION, "raw_attention", "validation loss", "report.html"):
        assert words in " ".join(text.split()), words
    assert "%" not in text and "chance" not in text and "nan" not in text


@pytest.mark.parametrize("measured", WITHOUT_CLASSES, ids=["nothing", "masks", "attributes"])
def test_print_summary__whatever_judges_images_without_labels_is_shown(tmp_path, monkeypatch, measured):
    monkeypatch.setitem(MEASURED, "probe", measured)
    text = summary_of(tmp_path, [PROBE])
    assert (NO_ACCURACY in text) == (not measured)
    assert ("mIoU in %" in text, "Accuracy in %" in text) == ("dense_miou" in measured, "attributes_floor" in measured)


def test_print_summary__data_sets_with_labels_judge_images_without(tmp_path):
    text = summary_of(tmp_path, (BIRDS, STREETS))
    for words in (
        "12 test images of birds and 12 test images of streets",
        "birds: linear probe",
        "15.0",
        "validation loss",
    ):
        assert words in text, words
    assert NO_ACCURACY not in text


def test_print_summary__without_a_report_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match=r"comparison\.csv: not found; run `dvc repro`"):
        print_summary(tmp_path, "sqlite:///tracking/mlflow.db")


def test_part_line__is_absent_without_part_labels():
    assert part_line({"semmae/knn_accuracy/mean": 0.4}) is None


def test_part_line__masks_of_whole_objects_are_scored_by_the_foreground():
    found = part_line(
        {"parts/learned/foreground_iou": 0.625, "parts/raw/foreground_iou": 0.5, "parts/learned/nmi": 0.1}
    )
    assert found.endswith("true objects, test set: learned 0.62, raw attention 0.50")


def test_print_summary__needs_no_heavy_import(root):
    code = (
        "import pathlib, sys; from reports.table import print_summary; print_summary(pathlib.Path(sys.argv[1]), 'sqlite:///t.db')\n"
        "heavy = {'torch', 'scipy', 'matplotlib', 'mlflow', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, str(root)], check=True, capture_output=True)
