"""The report in a real browser."""

import re

import pytest

from reports.comparison import to_csv

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(html, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser, address):
    """A function that opens the report and returns the page; what the browser complained of is an error at the end."""
    complaints, pages = [], []

    def open_(**options):
        page = browser.new_page(**options)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request", lambda sent: complaints.append(sent.url) if not sent.url.startswith(("file:", "data:")) else 0
        )
        page.goto(address)
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()
    assert complaints == []


def column(page, number):
    return page.locator("table").first.locator(f"tbody tr > :nth-child({number + 1})").all_inner_texts()


def test_report__a_click_on_a_heading_sorts_its_table_both_ways(opened):
    page = opened()
    head = page.locator("table").first.locator("thead button").nth(1)
    before = sorted(column(page, 1))
    head.click()
    first = [float(re.match(r"[\d.]+", text)[0]) for text in column(page, 1)]
    head.click()
    second = [float(re.match(r"[\d.]+", text)[0]) for text in column(page, 1)]
    assert first == sorted(first, reverse=True) and second == sorted(second)
    assert len(set(first)) > 1
    assert sorted(column(page, 1)) == before


def test_report__names_sort_by_the_alphabet(opened):
    page = opened()
    page.locator("table").first.locator("thead button").first.click()
    assert column(page, 0) == sorted(column(page, 0)) and len(column(page, 0)) == 3


def test_report__every_picture_is_there_and_says_what_it_shows(opened):
    pictures = (
        opened()
        .locator("main img")
        .evaluate_all(
            "all => Promise.all(all.map(async one => { await one.decode(); return [one.naturalWidth, one.alt]; }))"
        )
    )
    assert len(pictures) > 5
    assert all(width > 0 and alt for width, alt in pictures)


def test_report__a_picture_opens_in_its_own_size_and_closes(opened):
    page = opened()
    page.locator("figure img").first.click()
    assert page.locator("dialog img").evaluate("one => one.decode().then(() => one.naturalWidth)") > 0
    assert page.locator("dialog").evaluate("one => one.open")
    page.locator("dialog img").click()
    assert not page.locator("dialog").evaluate("one => one.open")


def test_report__its_table_can_be_saved(opened, material, tmp_path):
    page = opened()
    with page.expect_download() as download:
        page.get_by_role("link", name="comparison.csv").click()
    download.value.save_as(tmp_path / "saved.csv")
    assert (tmp_path / "saved.csv").read_text() == to_csv(material.rows)


def test_report__fits_a_phone(opened):
    page = opened(viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_report__follows_the_readers_scheme(opened):
    def light_of(page):
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    light, dark = opened(color_scheme="light"), opened(color_scheme="dark")
    assert light_of(light) > 200 and light_of(dark) < 60
    chart = "document.querySelector('picture img').currentSrc"
    assert light.evaluate(chart) != dark.evaluate(chart)
