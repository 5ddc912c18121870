"""What DVC keeps: linked and not copied, never written to, and carried to and from an S3 store."""

import contextlib
import hashlib
import os
import shutil

import pytest
from dvc_objects.fs.system import reflink

from config.presets import read_document, write_params
from shards.parquet_files import opened
from tests.pipeline.conftest import make_small, repro

STAGES = """
stages:
  make:
    cmd: mkdir -p out; cp mine/image.txt out/text; head -c 300000 mine/big > out/big
    deps: [mine/image.txt, mine/big]
    outs: [out]
  below:
    cmd: mkdir -p below; cat out/text out/big > below/both
    deps: [out]
    outs: [below]
"""


@pytest.fixture
def small(surroundings, tmp_path):
    folder = make_small(tmp_path / "small", STAGES, {"mine/big": "0123456789" * 30_000})
    with open(folder / ".gitignore", "a") as file:
        file.write("/below/\n")
    repro(folder, "repro", "-q")
    return folder


def files(*folders):
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def check_cache(folder):
    """Every object is what its name says: MD5 of its bytes. How many there are."""
    objects = files(folder / ".dvc/cache/files/md5")
    for path in objects:
        name = (path.parent.name + path.name).removesuffix(".dir")
        assert hashlib.md5(path.read_bytes()).hexdigest() == name, path
    return len(objects)


def skip_if_cloned(folder):
    """Where files can be clones DVC makes those: they share their bytes, and no count of links shows it."""
    with contextlib.suppress(OSError):
        reflink(str(folder / "out/big"), str(folder / "clone"))
        pytest.skip("this file system clones files")


def test_cache__an_out_and_its_object_are_one_file(small):
    skip_if_cloned(small)
    by_inode = {path.stat().st_ino: path.stat().st_size for path in files(small / "out", small / "below")}
    cached = {path.stat().st_ino for path in files(small / ".dvc/cache/files/md5")}
    assert by_inode.keys() <= cached
    assert sum(by_inode.values()) > 600_000


def test_cache__a_stage_that_runs_again_leaves_the_objects_of_its_last_run(small):
    before = check_cache(small)
    (small / "mine/image.txt").write_text("another image")
    repro(small, "repro", "-q")
    assert (small / "below/both").read_text().startswith("another image")
    assert check_cache(small) > before
    (small / "mine/image.txt").write_text("an image")
    repro(small, "repro", "-q")
    assert (small / "below/both").read_text().startswith("an image")
    check_cache(small)


def test_cache__outs_are_protected_and_come_back_when_deleted(small):
    skip_if_cloned(small)
    assert (small / "out/big").stat().st_mode & 0o222 == 0
    shutil.rmtree(small / "out")
    repro(small, "checkout", "-q")
    assert (small / "out/big").stat().st_nlink == 2
    assert "up to date" in repro(small, "repro")


def test_cache__an_out_that_was_found_damaged_is_made_again_once_it_is_deleted(small):
    """DVC by itself would bring the damaged object back, which is the same file."""
    path = small / "out/big"
    before = path.stat()
    with open(path, "r+b") as file:
        file.write(b"?")
    # As a disk would: neither size nor time tell of it.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "up to date" in repro(small, "repro")
    footer = {"bytes": 8, "sha256": "of another file"}
    with (
        pytest.raises(ValueError, match=r"out/big: damaged.*; delete the folder and run `dvc repro`"),
        opened(path, size=before.st_size, footer=footer),
    ):
        pass
    shutil.rmtree(small / "out")
    repro(small, "repro", "-q")
    assert path.read_bytes() == (small / "mine/big").read_bytes()
    check_cache(small)


@pytest.mark.slow
def test_cache__stages_of_the_pipeline_write_to_no_object(copied_world, surroundings):
    """Every stage replaces its outs: nothing in the cache changes when it runs again."""
    folder = copied_world
    for path in ("data", "metrics", "history"):
        shutil.rmtree(folder / path)
    repro(folder, "repro", "-q", "--single-item", "generate_creatures@creatures", "prepare_data")
    before = check_cache(folder)
    document = read_document(folder / "params.yaml")
    document["creatures"]["seed"], document["data"]["val_share"] = 1, 0.3
    write_params(document, folder / "params.yaml")
    repro(folder, "repro", "-q", "--single-item", "generate_creatures@creatures", "prepare_data")
    assert check_cache(folder) > before


@pytest.mark.slow
def test_remote__an_out_goes_to_a_store_and_comes_back(copied_world, surroundings, bucket):
    folder = copied_world
    repro(folder, "commit", "-q", "-f", "prepare_data")
    expected = {path.name: path.read_bytes() for path in files(folder / "data/shards")}
    repro(folder, "remote", "add", "-q", "-d", "store", f"{bucket.url}/dvc")
    repro(folder, "remote", "modify", "-q", "store", "endpointurl", bucket.server.url)
    repro(folder, "push", "-q", "data/shards")
    assert len(bucket.keys()) == len(expected) + 1, "the files and their list"
    shutil.rmtree(folder / ".dvc/cache")
    shutil.rmtree(folder / "data/shards")
    repro(folder, "pull", "-q", "data/shards")
    assert {path.name: path.read_bytes() for path in files(folder / "data/shards")} == expected
    assert os.listdir(folder / ".dvc/cache/files/md5")
