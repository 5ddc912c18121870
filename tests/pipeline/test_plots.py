"""DVC's plots: a handful, drawn by scripts that are in the page."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
import vl_convert

from config.params import read_yaml
from pipeline import plots
from pipeline.plots import TEMPLATE, prepare
from tests.conftest import ROOT
from tests.pipeline.conftest import make_small

STAGES = """
stages:
  makes:
    cmd: mkdir -p history report; cp made.csv report/curves.csv
    deps: [made.csv]
    outs: [report/curves.csv]
plots:
- pretraining:
    template: curves
    x: step
    y: {report/curves.csv: loss}
"""
CURVES = "arm,seed,step,loss\nsemmae,0,1,0.5\nsemmae,0,2,0.25\n"


@pytest.fixture
def small(surroundings, tmp_path, monkeypatch):
    """A repository with a curve to draw, as the current folder, and scripts that are one word."""
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda snippet, vl_version: "window.vegaEmbed = {};")
    template = (ROOT / ".dvc/plots/curves.json").read_text()
    files = {".dvc/plots/curves.json": template, "made.csv": CURVES, "report/curves.csv": CURVES}
    folder = make_small(tmp_path / "small", STAGES, files)
    monkeypatch.chdir(folder)
    return folder


def test_prepare__dvc_draws_pages_without_an_address(small):
    prepare()
    subprocess.run([sys.executable, "-m", "dvc", "plots", "show", "-q"], check=True)
    page = (small / "dvc_plots/index.html").read_text()
    assert "window.vegaEmbed = {};" in page and page.count("vegaEmbed('#pretraining', spec)") == 1
    assert re.findall(r'src *= *"|href *= *"', page) == []
    git = subprocess.run(["git", "status", "--short"], capture_output=True, text=True, check=True).stdout
    assert ".dvc" not in git, "where the scripts are is a matter of this machine"


def test_prepare__makes_the_scripts_once(small, monkeypatch):
    prepare()
    before = (small / TEMPLATE).read_bytes()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    prepare()
    assert (small / TEMPLATE).read_bytes() == before
    (small / TEMPLATE).unlink()
    with pytest.raises(ValueError, match="vl-convert-python is not installed; run `pip install"):
        prepare()


@pytest.mark.slow
def test_scripts__are_whole(browser, tmp_path):
    """The real ones, in a browser that has no network."""
    scripts = vl_convert.javascript_bundle(plots.EXPORT, plots.VEGA_LITE)
    assert "</script" not in scripts
    spec = {"data": {"values": [{"a": 1}]}, "mark": "point", "encoding": {"x": {"field": "a", "type": "quantitative"}}}
    drawing = f"<div id=x></div><script>vegaEmbed('#x', {json.dumps(spec)})</script>"
    page = tmp_path / "page.html"
    page.write_text(plots.PAGE.format(scripts=scripts).replace("{plot_divs}", drawing))
    tab = browser.new_context(offline=True).new_page()
    tab.goto(page.as_uri())
    tab.wait_for_selector("#x canvas, #x svg")


def test_plots__are_a_handful_of_outs_of_the_graph():
    """Those of dvc.yaml alone: no stage has plots of its own, of which there would be one for each arm and seed."""
    document = read_yaml(ROOT / "dvc.yaml")
    outs = {out for stage in document["stages"].values() for out in stage.get("outs", ())}
    chosen = {file for plot in document["plots"] for (values,) in [plot.values()] for file in values["y"]}
    assert chosen <= outs and 0 < len(document["plots"]) <= 8
    assert not any("plots" in stage for stage in document["stages"].values())


def test_plots__find_their_columns_in_the_outs(world):
    document = read_yaml(ROOT / "dvc.yaml")
    for plot in document["plots"]:
        (values,) = plot.values()
        for file, column in values["y"].items():
            rows = pd.read_csv(world / file) if file.endswith(".csv") else pd.read_json(world / file)
            assert {values["x"], column} <= set(rows.columns), file
