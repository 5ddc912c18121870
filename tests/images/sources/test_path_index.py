import random
import string
import time
import unicodedata

import pytest

from images.sources.path_index import PathIndex

PATHS = ["train/1.jpg", "test/1.jpg", "train/sub/two.v1.PNG", "train/3.jpg", "train/3.png", "odd"]
SPLITS = ["train", "test", "train", "train", "train", ""]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("train/1.jpg", [0]), ("train/1", [0]), ("/data/set/train/1.jpg", [0]), (r".\test\1.jpg", [1]), ("./test//1", [1]),
        ("1.jpg", [0, 1]), ("1", [0, 1]), ("1.jpeg", [0, 1]), ("two.v1", [2]), ("two.v1.png", [2]), (" sub/two.v1.tif ", [2]),
        ("two", []), ("3.png", [4]), ("3", [3, 4]), ("val/1.jpg", []), ("other/sub/two.v1", []), ("odd", [5]), ("", []),
        ("/", []), ("rain/1.jpg", []), ("a/" * 5000 + "odd", [5]),
    ],
)  # fmt: skip
def test_find__a_text_and_a_path_fit_where_one_is_the_end_of_the_other(text, places):
    assert PathIndex(PATHS, SPLITS).find(text) == places


def test_find__the_longest_path_that_fits_is_meant():
    assert PathIndex(["1.jpg", "x/other/1.jpg"], ["", ""]).find("other/1.jpg") == [1]


def test_find__a_split_narrows_the_search():
    index = PathIndex(PATHS, SPLITS)
    assert (index.find("1", "train"), index.find("1", "test"), index.find("two.v1", "test")) == ([0], [1], [])


def test_find__accents_in_either_form_are_the_same():
    composed = "caf\u00e9/\u00e4.jpg"
    for path in (composed, unicodedata.normalize("NFD", composed)):
        assert PathIndex([path], [""]).find(composed) == PathIndex([path], [""]).find("a\u0308.jpg") == [0]


def test_find__agrees_with_the_comparison_of_all_paths():
    def parts(path):
        return path.removesuffix(".jpg").split("/")

    def fit(text, path):
        shorter = min(len(parts(text)), len(parts(path)))
        return parts(text)[-shorter:] == parts(path)[-shorter:]

    draw = random.Random(0)
    paths = sorted({"/".join(draw.choices("ab", k=draw.randint(1, 4))) + ".jpg" for _ in range(40)})
    index = PathIndex(paths, [""] * len(paths))
    for path in {"/".join(draw.choices("abc", k=draw.randint(1, 6))) for _ in range(300)}:
        expected = [place for place, other in enumerate(paths) if fit(path, other)]
        found = index.find(path)
        # A path that is named whole is meant, although others end like it.
        assert bool(found) == bool(expected) and set(found) <= set(expected)
        assert len(expected) != 1 or found == expected


def test_find__many_images_of_one_name_cost_no_more():
    def seconds(count):
        paths = [f"{number}/image.jpg" for number in range(count)]
        start = time.perf_counter()
        index = PathIndex(paths, [""] * count)
        for text in [*paths, *["image.jpg"] * count]:
            index.find(text)
        return time.perf_counter() - start

    assert seconds(20_000) < 40 * seconds(2_000)


def test_find__names_of_any_letters():
    draw = random.Random(1)
    names = sorted(
        {"".join(draw.choices(string.printable.replace("/", "").replace("\\", "").strip(), k=8)) for _ in range(200)}
    )
    index = PathIndex([f"x/{name}.png" for name in names], [""] * len(names))
    assert [index.find(name) for name in names] == [[place] for place in range(len(names))]
