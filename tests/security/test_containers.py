"""Arrow files and tars of strangers: no more memory than the file, one line for damage, and names in them are no paths."""

import random
import tarfile

import pyarrow as pa
import pytest

from images.decoding import Refused
from images.sources import webdataset
from images.sources.preparation import open_source
from tests.images.sources.test_arrow import write_arrow
from tests.images.sources.test_webdataset import samples, write_tar
from tests.security.bombs import encoded, picture
from tests.security.children import run

OPEN = """
from images.sources.preparation import open_source
for name in sys.argv[1:]:
    measured(name, lambda: open_source(name, image_column="image", label_column="label"))
"""


def open_(root):
    return open_source(root, image_column="image", label_column="label")


def number(value):
    """A number of a tar's header in base 256, as GNU writes large and negative ones."""
    return bytes([0xFF if value < 0 else 0x80]) + (value % 2**88).to_bytes(11, "big")


def header(kind, size, name=b"a"):
    """One block: a header of a type that claims a size."""
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" * 3 + number(size) + b"00000000000\0" + b" " * 8 + kind)
    block += bytes(100) + b"ustar\00000" + bytes(247)
    block[148:156] = b"%06o\0 " % sum(block)
    assert len(block) == 512
    return bytes(block)


TARS = {
    "size": header(b"0", 2**40, b"1.jpg") + bytes(2048),
    "negative": header(b"0", -1024, b"1.jpg") + bytes(2048),
    "back": header(b"0", 512, b"1.jpg") + bytes(512) + header(b"Z", -2048) + bytes(2048),
    "long name": header(b"L", 2**34) + bytes(2048),
    "pax": header(b"x", 2**34) + bytes(2048),
    "negative pax": header(b"x", -512) + bytes(2048),
    "headers of headers": header(b"x", 0) * 5000 + bytes(2048),
    "global": header(b"g", 2**34) + bytes(2048),
    "cut off": header(b"0", 10, b"1.jpg") + bytes(512),
    "damaged behind": header(b"0", 10, b"1.jpg") + bytes(512) + b"?" * 1024,
    "no tar": b"?" * 2048,
    "empty": b"",
}


def test_source__tars_that_lie_are_refused_in_a_line(tmp_path):
    for name, data in TARS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.tar").write_bytes(data)
    for name, found in run(OPEN, *(tmp_path / name for name in TARS)).items():
        assert found.said.startswith(f"refused: {name}/0.tar: not a readable WebDataset file ("), found
        assert "\n" not in found.said and found.mib < 16 and found.seconds < 2, found


def test_source__a_tar_of_endless_entries_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "_MOST_MEMBERS", 100)
    write_tar(tmp_path / "a/0.tar", samples(50))
    assert len(open_(tmp_path / "a").items) == 50
    write_tar(tmp_path / "b/0.tar", samples(51))
    with pytest.raises(ValueError, match="more than 100 entries; split it"):
        open_(tmp_path / "b")


def test_source__links_out_of_a_tar_are_never_followed(tmp_path):
    (tmp_path / "secret.png").write_bytes(encoded(picture(), "PNG"))
    link, hard = tarfile.TarInfo(), tarfile.TarInfo()
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
    hard.type, hard.linkname = tarfile.LNKTYPE, "../secret.png"
    write_tar(tmp_path / "set/0.tar", [("1.png", link), ("2.png", hard), ("../../3.png", b"3"), ("/4.png", b"4")])
    source = open_(tmp_path / "set")
    assert [(item.path, source.read(item).image) for item in source.items] == [
        (b"0.tar/3.png", b"3"), (b"0.tar/4.png", b"4")
    ]  # fmt: skip
    assert [row.reason for row in source.rejected] == ["not a file"] * 2


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("as_file", [False, True])
def test_source__compressed_arrow_is_refused_before_it_inflates(tmp_path, compression, as_file):
    write_arrow(tmp_path / "0.arrow", [(bytes(2**28), "a.png")], [0], as_file=as_file, compression=compression)
    assert (tmp_path / "0.arrow").stat().st_size < 2**21
    found = run(OPEN, tmp_path)[str(tmp_path)]
    assert "compressed Arrow data is not read" in found.said
    assert found.mib < 32, found


def test_source__a_compressed_dictionary_is_refused(tmp_path):
    table = pa.table({"image": [b"1", b"2"], "label": pa.array(["x" * 2**20, "y"]).dictionary_encode()})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        pa.OSFile(str(tmp_path / "0.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema, options=options) as writer,
    ):
        writer.write_table(table)
    with pytest.raises(ValueError, match="compressed Arrow data is not read"):
        open_(tmp_path)


def test_source__offsets_of_arrow_that_lead_out_of_the_file_are_refused(tmp_path):
    write_arrow(tmp_path / "0.arrow", [(b"a" * 9, "a"), (b"b" * 9, "b")], [0, 1])
    data = (tmp_path / "0.arrow").read_bytes()
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 9, 18))
    assert data.count(offsets) == 1
    (tmp_path / "0.arrow").write_bytes(data.replace(offsets, offsets[:8] + (2**31 - 1).to_bytes(4, "little")))
    with pytest.raises(ValueError, match="not a readable Arrow file"):
        open_(tmp_path)


@pytest.mark.family
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", ["tar", "stream", "file"])
def test_source__damaged_anywhere_is_read_or_refused_in_a_line(tmp_path, kind, seed):
    path = tmp_path / ("0.tar" if kind == "tar" else "0.arrow")
    if kind == "tar":
        write_tar(path, [*samples(10), ("x" * 150 + ".jpg", b"long"), ("é.json", b'{"label": "a"}')])
    else:
        rows = [(b"bytes of %d" % n, f"{n}.png") for n in range(30)]
        write_arrow(path, rows, ["cat", "dog", "emu"] * 10, batch=10, as_file=kind == "file")
    data, rng = path.read_bytes(), random.Random(f"{kind} {seed}")
    for _ in range(20):
        damaged = bytearray(data)
        for place in rng.choices(range(len(data)), k=rng.choice((1, 2, 30))):
            damaged[place : place + 8] = rng.choice((b"\xff" * 8, bytes(8), rng.randbytes(8)))
        path.write_bytes(damaged)
        try:
            source = open_(tmp_path)
            for item in source.items:
                source.read(item)
        except Refused:
            pass
        except ValueError as error:
            assert "\n" not in str(error)
