import concurrent.futures
import os
import socket
import subprocess
import sys

import fsspec
import pytest
from s3fs import S3FileSystem

from shards import storage
from shards.storage import ObjectFile, list_objects, send, size_of, sizes_of
from tests.conftest import ROOT

DATA = os.urandom(300_000)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").write_bytes(DATA)
    return tmp_path / "source"


def reads(requests):
    return [request.bytes for request in requests if request.method == "GET"]


def test_send__puts_a_file_once(bucket, source):
    url = f"{bucket.url}/prefix/name"
    send(source, url)
    assert bucket.get("prefix/name") == DATA
    bucket.asked()
    send(source, url)
    assert [request.method for request in bucket.asked()] == ["HEAD"]


def test_send__what_is_there_in_part_is_replaced(bucket, source):
    bucket.put("name", DATA[:1000])
    send(source, f"{bucket.url}/name")
    assert bucket.get("name") == DATA


def test_send__to_a_folder_of_this_machine_makes_it(source, tmp_path):
    send(source, f"file://{tmp_path}/new/folder/name")
    assert (tmp_path / "new/folder/name").read_bytes() == DATA


def test_size_of__asks_once_and_knows_what_is_not_there(bucket):
    bucket.put("a", b"12345")
    bucket.asked()
    assert size_of(f"{bucket.url}/a") == 5
    assert len(bucket.asked()) == 1
    bucket.put("a", b"1")
    assert sizes_of([f"{bucket.url}/{name}" for name in "abc"]) == [1, None, None]
    assert sizes_of([]) == []


def test_object__a_read_is_one_request_for_its_bytes(bucket):
    bucket.put("a", DATA)
    bucket.asked()
    file = ObjectFile(f"{bucket.url}/a", len(DATA))
    assert bucket.asked() == []
    file.seek(1000)
    assert file.read(100) == DATA[1000:1100]
    assert file.read(100) == DATA[1100:1200]
    file.seek(-10, os.SEEK_END)
    assert file.read() == DATA[-10:]
    assert reads(bucket.asked()) == [100, 100, 10]


def test_object__read_from_front_to_back_takes_few_requests_and_each_byte_once(bucket):
    bucket.put("a", DATA)
    bucket.asked()
    file = ObjectFile(f"{bucket.url}/a", len(DATA), ahead=100_000)
    assert b"".join(iter(lambda: file.read(7000), b"")) == DATA
    sizes = reads(bucket.asked())
    assert len(sizes) == 3 and sum(sizes) == len(DATA)


def test_object__threads_share_the_connection(bucket):
    bucket.put("a", DATA)

    def read(start):
        file = ObjectFile(f"{bucket.url}/a", len(DATA))
        file.seek(start)
        return file.read(50)

    starts = range(0, 200_000, 1000)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(read, starts)) == [DATA[start : start + 50] for start in starts]
    assert len(S3FileSystem._cache) == 1


FORKED = """
import multiprocessing, sys
from shards.storage import ObjectFile

def read():
    print(ObjectFile(sys.argv[1], 100_000).read(5).decode(), flush=True)

read()
child = multiprocessing.get_context("fork").Process(target=read)
child.start()
child.join(60)
sys.exit(child.exitcode)
"""


def test_object__a_forked_process_reads_after_its_parent_has(bucket):
    bucket.put("a", b"12345" * 20_000)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FORKED, f"{bucket.url}/a"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (0, "12345\n12345\n"), answer.stderr


def test_object__that_is_gone_is_named(bucket):
    with pytest.raises(FileNotFoundError, match=rf"^{bucket.url}/gone: there is no such object"):
        ObjectFile(f"{bucket.url}/gone", 10).read()


def test_store__is_found_by_the_configuration_of_fsspec_too(bucket):
    bucket.put("a", b"12345")
    environment = {**os.environ, "FSSPEC_S3_ENDPOINT_URL": bucket.server.url, "PYTHONPATH": str(ROOT)}
    del environment["AWS_ENDPOINT_URL"]
    command = [sys.executable, "-c", f"from shards.storage import size_of; print(size_of('{bucket.url}/a'))"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (answer.stdout, answer.stderr) == ("5\n", "")


def test_store__that_does_not_answer_is_one_line_with_the_url(bucket, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        for ask in (size_of, lambda url: list(list_objects(url)), lambda url: ObjectFile(url, 10).read()):
            with pytest.raises(ValueError) as error:
                ask("s3://bucket/name")
            assert str(error.value).startswith("s3://bucket/name: ") and "\n" not in str(error.value)
            assert "AWS_ENDPOINT_URL" in str(error.value)


def test_store__of_an_unknown_or_missing_kind_is_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"nonesuch://: Protocol not known: nonesuch; write s3://BUCKET"):
        size_of("nonesuch://a/b")

    def missing(protocol, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    storage._file_system.cache_clear()
    with pytest.raises(ValueError, match=r"s3://: a package is missing .*; pip install 'semmae\[s3\]'"):
        size_of("s3://a/b")


def test_list_objects__gives_what_lies_below_and_a_version_that_changes_with_the_content(bucket):
    for name in ("photos/cat/1.jpg", "photos/ä 猫+%41.jpg", "photos2/x.jpg", "other"):
        bucket.put(name, name.encode())
    bucket.put("photos/folder/", b"")
    found = {item.path: item for item in list_objects(f"{bucket.url}/photos")}
    assert {path: item.size for path, item in found.items()} == {b"cat/1.jpg": 16, "ä 猫+%41.jpg".encode(): 21}
    bucket.put("photos/cat/1.jpg", b"PHOTOS/CAT/1.JPG")
    again = {item.path: item for item in list_objects(f"{bucket.url}/photos/")}
    assert again[b"cat/1.jpg"].version != found[b"cat/1.jpg"].version
    assert again["ä 猫+%41.jpg".encode()] == found["ä 猫+%41.jpg".encode()]
