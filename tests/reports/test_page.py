from pathlib import Path

import numpy as np

import reports
from config.params import read_yaml
from reports.figures import Chart
from reports.page import Cell, Section, chart, data_uri, page, strips, table
from reports.pictures import png
from tests.reports.document import parse


def test_table__marks_headings_and_sort_values():
    html = table(["arm", "a < b"], [[Cell("x"), Cell("<b>1.5</b>", 1.5, "text")]], caption="c & d", lead=0)
    document = parse(html)
    assert [found["scope"] for tag, found in document.tags if tag == "th"] == ["col", "col", "row"]
    assert ("td", {"class": "text", "data-value": "1.5", "data-label": "a < b"}) in document.tags
    assert "c & d" in document.text and "a < b" in document.text


def test_chart__has_a_version_for_dark_surroundings():
    light, dark = (png(np.full((2, 5, 3), value, np.uint8)) for value in (250, 20))
    found = dict(parse(chart(Chart(light, dark), alt='say "it"', caption="")).tags)
    assert found["source"]["media"] == "(prefers-color-scheme: dark)"
    assert found["source"]["srcset"] == data_uri(dark)
    assert found["img"] == {"src": data_uri(light), "width": "5", "height": "2", "alt": 'say "it"'}


def test_strips__without_labels_take_the_whole_width():
    picture = png(np.zeros((2, 5, 3), np.uint8))
    assert "bare" in strips([("", picture, "alt")], heads=["a"])
    assert "bare" not in strips([("name", picture, "alt")])


def test_page__text_is_never_markup():
    html = page(
        title="<script>", lead="a < b", verdict=["x & y"], facts="", sections=[Section("a", "<i>", "<u>", "")], foot=""
    )
    document = parse(html)
    assert not {"i", "u"} & {tag for tag, _ in document.tags}
    assert [tag for tag, _ in document.tags].count("script") == 1
    assert "x & y" in document.text


def test_page__its_style_and_script_are_dependencies_of_the_stage():
    deps = read_yaml("dvc.yaml")["stages"]["compare"]["deps"]
    files = {path.name for path in Path(reports.__file__).parent.iterdir() if path.suffix in (".css", ".js")}
    assert files == {"page.css", "page.js"}
    assert {f"reports/{name}" for name in files} <= set(deps)
