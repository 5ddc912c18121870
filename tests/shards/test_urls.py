import pytest

from config.presets import compose
from shards.urls import check_url, is_url
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("place", "expected"), [("s3://b/p", True), ("file:///p", True), ("data/creatures", False), ("/a:b/c", False)]
)
def test_is_url__tells_a_store_from_a_path(place, expected):
    assert is_url(place) == expected


@pytest.mark.parametrize(
    "url", ["s3://bucket/prefix", "hdfs://host:8020/p", "file:///a/b", "s3://b/a@b/c:d", "memory://x"]
)
def test_check_url__a_plain_one_may_stand_in_parameters(url):
    check_url(url, "data.store")


# The last holds a slash, as AWS's secret keys do.
@pytest.mark.parametrize(
    "url", ["s3://key:secret@bucket/p", "s3://secret@bucket", "https://a:secret@h:80/p", "s3://k:se/cret@b"]
)
def test_check_url__credentials_are_refused_and_not_repeated(url):
    with pytest.raises(ValueError, match=r"^data\.store: the URL holds a user or a password; take them out") as error:
        check_url(url, "data.store")
    assert "secret" not in str(error.value) and "cret@" not in str(error.value)


def test_check_url__a_path_is_refused():
    with pytest.raises(ValueError, match=r"data.store 'data/shards' is not a URL; write s3://BUCKET/PREFIX"):
        check_url("data/shards", "data.store")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"store": "s3://k:secret@b/p"}, "data.store: got 's3://***@b/p'; holds the credentials of an address"),
        ({"path": "s3://k:secret@b/p"}, "data.path: got 's3://***@b/p'; holds the credentials of an address"),
        ({"store": "shards"}, "data: store 'shards' is not a URL"),
        ({"path": "s3://b/p", "watch": "s3://b/p"}, "data: watch: DVC cannot watch a URL; run `semmae use s3://b/p`"),
    ],
)
def test_params__an_address_that_cannot_be_used_is_one_line(monkeypatch, changes, message):
    from config.presets import check

    monkeypatch.chdir(ROOT)
    document = compose("quickstart")
    document["data"].update(changes)
    with pytest.raises(ValueError) as error:
        check(document, "params.yaml")
    assert str(error.value).startswith(f"params.yaml: {message}")
    assert "secret" not in str(error.value) and "\n" not in str(error.value)
