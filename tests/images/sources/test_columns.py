import json

import pyarrow as pa
import pytest

from images.sources.columns import IMAGES, LABELS, find_columns, has_images, label_key
from tests.images.sources.test_parquet import ENCODED

INT, TEXT, BINARY = pa.int64(), pa.string(), pa.binary()


def chosen(columns, image="image", label="label", path=b"data/train-0.parquet", *, features=None):
    """(image, label) that are chosen among columns of these types."""
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    found = find_columns(path, pa.schema(list(columns.items()), metadata=metadata), image, label)
    return found.image, found.label


def refusal(columns, *arguments, **options):
    with pytest.raises(ValueError) as error:
        chosen(columns, *arguments, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    return str(error.value)


def test_find__configured_columns_come_first():
    columns = {"img": ENCODED, "image": ENCODED, "label": INT, "labels": INT}
    assert chosen(columns) == ("image", "label")
    assert chosen(columns, "img", "labels") == ("img", "labels")
    assert chosen(columns, label="") == ("image", None)


@pytest.mark.parametrize("name", IMAGES[1:])
def test_find__usual_names_of_images(name):
    assert chosen({name.upper(): ENCODED, "other": BINARY, "label": INT}) == (name.upper(), "label")


@pytest.mark.parametrize("name", LABELS[1:])
def test_find__usual_names_of_labels(name):
    assert chosen({"image": ENCODED, name.title(): INT, "text": TEXT}) == ("image", name.title())


def test_find__the_only_column_of_images_under_any_name():
    assert chosen({"scan": ENCODED, "mask": ENCODED, "sha256": BINARY, "label": INT}) == ("scan", "label")
    assert chosen({"scan": pa.large_binary(), "label": INT}) == ("scan", "label")
    # Its name alone does not make a column one of images.
    assert chosen({"image": TEXT, "data": BINARY, "label": INT}) == ("data", "label")


def test_find__a_class_label_of_hugging_face_under_any_name():
    features = {"breed": {"_type": "ClassLabel", "names": ["a", "b"]}, "size": {"_type": "Value"}}
    assert chosen({"image": ENCODED, "breed": INT, "size": INT}, features=features) == ("image", "breed")


def test_find__several_that_may_be_meant_are_named():
    assert "data.image_column: data/train-0.parquet has images in img, jpg; name one" in refusal(
        {"img": ENCODED, "jpg": BINARY}
    )
    assert "has images in left, right" in refusal({"left": ENCODED, "right": ENCODED, "label": INT})
    features = {name: {"_type": "ClassLabel", "names": ["a"]} for name in ("fine_label", "coarse_label")}
    message = refusal({"img": ENCODED, "fine_label": INT, "coarse_label": INT}, features=features)
    assert "data.label_column: data/train-0.parquet has classes in fine_label, coarse_label; name one" in message


def test_find__none_names_the_columns_and_both_parameters():
    message = refusal({"text": TEXT, "size": INT})
    for part in ("data.image_column", "data.label_column", "'image'", "text, size"):
        assert part in message
    assert "no column 'photo' of encoded images, only image, label" in refusal(
        {"image": ENCODED, "label": INT}, "photo"
    )


def test_find__an_explicit_label_that_is_missing_is_an_error():
    with pytest.raises(ValueError, match=r"data\.label_column: x\.parquet has no column 'breed', only image, label"):
        find_columns(b"x.parquet", pa.schema({"image": ENCODED, "label": INT}), "image", "breed")


def test_find__without_a_column_of_labels_there_is_a_note():
    found = find_columns(b"x.parquet", pa.schema({"image": ENCODED, "text": TEXT}), "image", "label")
    assert (found.label, found.folder_label) == (None, None)
    assert found.notes == ("no column of labels among image, text; data.label_column may name one",)


def test_find__what_was_chosen_is_noted():
    found = find_columns(b"x.parquet", pa.schema({"img": ENCODED, "labels": INT}), "image", "label")
    assert [(note.count("'img'"), note.count("'labels'")) for note in found.notes] == [(1, 0), (0, 1)]


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (TEXT, ["holds text, as paths or URLs", "cast_column('image', datasets.Image())", "<class>/*"]),
        (pa.list_(ENCODED), ["holds lists of images", "one image a row"]),
        (pa.large_list(BINARY), ["holds lists of images"]),
        (pa.struct({"bytes": pa.null(), "path": TEXT}), ["holds paths and no bytes"]),
        (pa.struct({"path": TEXT}), ["holds paths and no bytes"]),
        (pa.list_(pa.float32()), ["holds list<", "expected are encoded images"]),
        (INT, ["holds int64; expected are encoded images"]),
        (pa.struct({f"field_{n}": INT for n in range(1000)}), ["...; expected"]),
    ],
)
def test_find__advice_for_a_column_that_holds_no_images(kind, parts):
    # Under a usual name as well.
    for name in ("image", "img"):
        message = refusal({name: kind, "label": INT})
        assert message.startswith(f"data.image_column: {name!r} of data/train-0.parquet holds ")
        assert all(part.replace("'image'", repr(name)) in message for part in parts)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (pa.list_(INT), "lists, several classes an image"),
        (ENCODED, "holds struct<"),
        (pa.map_(TEXT, INT), "holds map<"),
    ],
)
def test_find__advice_for_labels_that_are_no_class(kind, part):
    message = refusal({"image": ENCODED, "label": kind})
    assert message.startswith("data.label_column: 'label' of data/train-0.parquet holds ")
    assert part in message and "''" in message


def test_find__hive_folders_are_columns():
    for path, expected in (
        (b"label=cat/0.parquet", b"cat"), (b"year=2020/class=big%20cat/0.parquet", b"big cat"),
        (b"label=__HIVE_DEFAULT_PARTITION__/0.parquet", None), (b"label=caf\xe9/0.parquet", b"caf\xe9"),
    ):  # fmt: skip
        found = find_columns(path, pa.schema({"image": ENCODED}), "image", "label")
        assert (found.label, found.folder_label) == (None, expected)
    assert chosen({"image": ENCODED, "label": INT}, path=b"class=x/0.parquet") == ("image", "label")
    found = find_columns(b"breed=pug/0.parquet", pa.schema({"image": ENCODED}), "image", "breed")
    assert found.folder_label == b"pug"


def test_find__two_columns_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two columns have one name"):
        find_columns(b"x.parquet", pa.schema([("image", ENCODED), ("image", BINARY)]), "image", "label")


def test_has_images__asks_for_a_usual_name_beside_other_files():
    for columns, image, expected in (
        ({"image": ENCODED}, "image", True), ({"img": BINARY}, "image", True), ({"scan": ENCODED}, "image", False),
        ({"scan": ENCODED}, "scan", True), ({"image": TEXT}, "image", False), ({"img": ENCODED}, "photo", False),
    ):  # fmt: skip
        assert has_images(pa.schema(columns), image) == expected


def test_label_key__lists_the_first_of_many_names():
    with pytest.raises(ValueError, match="column_19, ...; ''") as error:
        label_key("x", [f"column_{n}" for n in range(10**5)], "breed")
    assert len(str(error.value)) < 500
