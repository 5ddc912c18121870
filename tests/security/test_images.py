"""Images that are bombs: each is refused with a reason, in little memory and time, whatever it claims to be."""

import os
import stat

import pytest

from images.decoding import FORMATS, Refused, inspect
from tests.security.bombs import bombs, encoded, gif, passes, picture, png, tiles
from tests.security.children import run

LIMIT = 1_000_000
# What a process takes to look at any file, and what a bomb claims to hold is a multiple of.
MOST_MIB, MOST_SECONDS = 150, 10
# Damaged metadata make no damaged picture: these are looked at and may be kept.
MAY_BE_KEPT = {"png exif", "jpeg exif", "tiff tags", "png zTXt", "png iTXt", "png iCCP", "png many texts"}
LOOK = f"""
from pathlib import Path
from images.decoding import Geometry, inspect, inspect_mask
for path in sorted(Path(sys.argv[1]).iterdir()):
    data = path.read_bytes()
    measured(path.name, lambda: inspect(data, max_pixels={LIMIT}))
    measured(path.name + " as a mask", lambda: inspect_mask(data, Geometry(8, 8, 1), max_pixels={LIMIT}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bombs")
    for name, data in bombs().items():
        assert len(data) < 2**24, name
        (folder / name).write_bytes(data)
    return run(LOOK, folder)


def test_inspect__every_bomb_is_refused_with_a_reason(found):
    assert len(found) > 40
    kept = {name for name, outcome in found.items() if not outcome.said.startswith("refused: ")}
    assert {name.removesuffix(" as a mask") for name in kept} <= MAY_BE_KEPT, found
    sizes = [name for name in found if "header" in name or "screen" in name or "canvas" in name]
    assert all("too large" in found[name].said for name in sizes), {name: found[name].said for name in sizes}
    assert "tiles of 16384 x 16384" in found["tiff tile"].said
    assert "passes over a progressive JPEG" in found["jpeg passes"].said
    frames = [name for name in found if name.endswith("00000 frames")]
    assert all("animated" in found[name].said for name in frames) and len(frames) == 3


def test_inspect__no_bomb_takes_memory_or_time(found):
    worst = max(found, key=lambda name: found[name].mib)
    assert found[worst].mib < MOST_MIB, (worst, found[worst])
    slowest = max(found, key=lambda name: found[name].seconds)
    assert found[slowest].seconds < MOST_SECONDS, (slowest, found[slowest])


def test_inspect__what_is_no_bomb_of_these_kinds_is_kept():
    for data in (png(), gif(1), passes(3), tiles(256), encoded(picture(), "WEBP")):
        assert inspect(data, max_pixels=LIMIT).width in (8, 64)


@pytest.mark.parametrize("data", [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"%PDF-1.7\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"\xd7\xcd\xc6\x9a" + b"\0" * 40, b"8BPS\0\1" + b"\0" * 40, b"\x00\x00\x01\x00\x01\x00" + b"\0" * 40, b"SIMPLE  = T",
], ids=["EPS", "PDF", "SVG", "WMF", "PSD", "ICO", "FITS"])  # fmt: skip
def test_inspect__formats_that_start_programs_or_hold_others_are_no_images(tmp_path, monkeypatch, data):
    for name in ("gs", "gswin64c"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(Refused, match="not an image"):
        inspect(data, max_pixels=LIMIT)
    assert not (tmp_path / "started").exists()
    assert not {"EPS", "PDF", "WMF", "PSD", "ICO", "FITS", "SVG"} & set(FORMATS)
