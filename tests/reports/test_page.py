from pathlib import Path

import numpy as np

import reports
from config.params import read_yaml
from reports.figures import Chart
from reports.gallery import Strip
from reports.page import environment
from tests.reports.document import parse

macros = environment().get_template("macros.html.j2").module
PICTURE = np.zeros((2, 5, 3), np.uint8)


def test_table__headings_sort_and_text_is_to_the_left():
    html = macros.table(["arm", "a < b"], "c & d", text=["a < b"], caller=lambda: "")
    document = parse(html)
    assert [found for tag, found in document.tags if tag == "th"] == [
        {"scope": "col"},
        {"scope": "col", "class": "text"},
    ]
    assert [tag for tag, _ in document.tags].count("button") == 2
    assert "c & d" in document.text and "a < b" in document.text


def test_chart__has_a_version_for_dark_surroundings():
    light, dark = (np.full((2, 5, 3), value, np.uint8) for value in (250, 20))
    uri = environment().filters["chart"]
    found = dict(parse(macros.chart(Chart(light, dark), 'say "it"', "")).tags)
    assert found["source"]["media"] == "(prefers-color-scheme: dark)"
    assert found["source"]["srcset"] == uri(dark)
    assert found["img"] == {"src": uri(light), "width": "5", "height": "2", "alt": 'say "it"'}


def test_strips__without_labels_take_the_whole_width():
    assert "bare" in macros.strips([Strip("", PICTURE, "alt")], heads=["a"])
    assert "bare" in macros.strips([Strip("name", PICTURE, "alt")], labels=False)
    assert "bare" not in macros.strips([Strip("name", PICTURE, "alt")])


def test_macros__text_is_never_markup():
    hostile = '<script>"x" & y</script>'
    html = macros.strips([Strip(hostile, PICTURE, hostile)], heads=[hostile], caption=hostile, title=hostile)
    html += macros.table([hostile], hostile, caller=lambda: "") + macros.arm_head(hostile, "#fff")
    html += macros.chart(Chart(PICTURE, PICTURE), hostile, hostile)
    document = parse(html)
    assert "script" not in {tag for tag, _ in document.tags}
    assert document.text.count(hostile) == 8
    assert [found["alt"] for tag, found in document.tags if tag == "img"] == [hostile, hostile]


def test_environment__a_per_cent_sign_stays_with_its_number():
    assert environment().from_string("{{ text }}").render(text="10 % < 20 %") == "10\u00a0% &lt; 20\u00a0%"


def test_page__its_templates_style_and_script_are_dependencies_of_the_stage():
    deps = set(read_yaml("dvc.yaml")["stages"]["compare"]["deps"])
    root = Path(reports.__file__).parent
    files = [path.relative_to(root.parent) for path in root.rglob("*") if path.suffix in (".css", ".js", ".j2")]
    assert len(files) > 5
    for file in files:
        assert {str(path) for path in (file, *file.parents)} & deps, file
