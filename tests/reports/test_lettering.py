import unicodedata
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import figures
from reports.lettering import LONGEST, class_names, drawable, shortened

PLAIN = [
    "Cat",
    "cat",
    "-dash",
    "50% off",
    "a b.c",
    "quo'te",
    "{x}",
    "$HOME",
    "$x$",
    "semi;colon",
    "back\\slash",
    "#hash",
]
ODD = ["日本", "مرحبا", "🙂", "", "\udc80x", "\u202eabc", "con\tab", "café", "cafe\u0301", "a rather long name 1"]


def test_class_names__keep_what_the_font_has_and_number_the_rest():
    assert class_names(PLAIN) == PLAIN
    assert class_names(["日本", "ant", "مرحبا"]) == ["class #0", "ant", "class #2"]
    assert class_names(["cafe\u0301", "con\tab"]) == ["café", "con ab"]


def test_class_names__that_would_look_the_same_have_numbers():
    assert class_names(["café", "cafe\u0301", "tea"]) == ["class #0", "class #1", "tea"]
    assert class_names(["lily of the valley, white", "lily of the meadows, white"]) == ["class #0", "class #1"]


@given(st.lists(st.text(max_size=30), max_size=12, unique=True))
def test_class_names__are_short_and_each_is_of_one_class(classes):
    names = class_names(classes)
    own = [name for name in names if not name.startswith("class #")]
    assert len(set(own)) == len(own) and all(0 < len(name) <= LONGEST for name in own)
    assert all(name == unicodedata.normalize("NFC", name) for name in own)


def test_shortened__keeps_beginning_and_end():
    assert shortened("0123456789", 10) == "0123456789"
    assert shortened("0123456789x", 7) == "012…89x" and len(shortened("0123456789x", 6)) == 6


def test_drawable__is_one_line():
    assert drawable(" two\nlines ", "other") == "two lines" and drawable(" \n", "other") == "other"


@pytest.mark.parametrize("names", [PLAIN, ODD], ids=["plain", "odd"])
def test_confusion__draws_every_letter_and_no_formula(names):
    with warnings.catch_warnings():
        # Matplotlib warns of a letter that its font lacks, and draws a box.
        warnings.simplefilter("error")
        assert figures.confusion(np.eye(len(names)), names).light.any()
