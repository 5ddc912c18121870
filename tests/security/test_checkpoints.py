"""Checkpoint files of strangers: no code of theirs runs, and none takes more memory than its file has bytes."""

import io
import json
import pickle
import struct
import tarfile
import time
import zipfile

import pytest
import torch
from safetensors.torch import save

from models import checkpoints
from models.checkpoints import read_checkpoint, tensors_of, vit_state


class Runs:
    """An object that starts a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def refusal(path, content=None):
    """The line that the file is refused with, soon."""
    if content is not None:
        path.write_bytes(content)
    began = time.monotonic()
    with pytest.raises(ValueError) as caught:
        vit_state(read_checkpoint(path))
    assert time.monotonic() - began < 10 and "\n" not in str(caught.value)
    return str(caught.value)


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def repacked(content, change):
    """A file of torch.save whose records are written again by `change(archive, record, bytes)`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(content))) as given, zipfile.ZipFile(buffer, "w") as made:
        for record in given.infolist():
            change(made, record.filename, given.read(record))
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
@pytest.mark.parametrize("place", ["value", "key", "deep"])
def test_read__code_in_a_pickle_does_not_run(tmp_path, options, place):
    marker = tmp_path / "ran"
    content = {"value": {"model": Runs(marker)}, "key": {Runs(marker): 1}, "deep": {"args": [{"x": (Runs(marker),)}]}}
    assert "not plain data" in refusal(tmp_path / "a.pth", saved(content[place], **options))
    assert not marker.exists()


def test_read__a_bare_pickle_or_a_script_does_not_run(tmp_path):
    marker = tmp_path / "ran"
    for content in (pickle.dumps(Runs(marker)), pickle.dumps({"model": Runs(marker)}, protocol=0)):
        refusal(tmp_path / "a.pth", content)
    archive = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), archive)
    refusal(tmp_path / "script.pth", archive.getvalue())
    assert not marker.exists()


def test_read__the_old_tar_format_unpacks_nothing(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle", "../outside"):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = (
                (tarfile.SYMTYPE, "/etc/passwd") if name == "storages" else (tarfile.REGTYPE, "")
            )
            archive.addfile(member)
    refusal(
        tmp_path / "below" / "a.pth" if (tmp_path / "below").mkdir() else tmp_path / "below/a.pth", buffer.getvalue()
    )
    assert not (tmp_path / "outside").exists()


def test_read__records_that_inflate_are_refused_before_they_are_read(tmp_path, monkeypatch):
    weights = {"patch_embed.proj.weight": torch.zeros(2**22)}
    bomb = repacked(
        weights, lambda archive, name, data: archive.writestr(name, data, compress_type=zipfile.ZIP_DEFLATED)
    )
    assert len(bomb) < 2**17
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    assert "that unpack to 167" in refusal(tmp_path / "a.pth", bomb)


@pytest.mark.parametrize("make", [
    lambda: torch.zeros(1).expand(2**20, 2**20),
    lambda: torch.zeros(2**16).as_strided((2**15, 2**16), (1, 0)),
    lambda: torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (2**30, 2**30)),
    lambda: torch.empty(2**30, 2**20, device="meta"),
    lambda: torch.quantize_per_tensor(torch.zeros(4), 1.0, 0, torch.quint8),
], ids=["one number", "rows in each other", "sparse", "without numbers", "quantised"])  # fmt: skip
def test_read__a_tensor_that_claims_more_than_the_file_has_is_refused(tmp_path, make):
    line = refusal(tmp_path / "a.pth", saved({"model": {"patch_embed.proj.weight": make()}}))
    assert "claim" in line or "sparse, quantised or without numbers" in line


def test_read__one_storage_under_ever_so_many_names_is_refused(tmp_path):
    half = torch.zeros(2**20, dtype=torch.half)
    assert "claim" in refusal(tmp_path / "a.pth", saved({f"blocks.{n}": half for n in range(10_000)}))


def test_read__weights_that_are_tied_are_no_bomb(tmp_path):
    shared = torch.randn(2**18)
    (tmp_path / "a.pth").write_bytes(saved({"a": shared, "b": shared, "c": torch.zeros(3)}))
    assert torch.equal(read_checkpoint(tmp_path / "a.pth")["b"], shared)


def test_unwrap__a_wrapper_that_holds_itself_has_an_end(tmp_path):
    content = {}
    content["model"] = content
    assert "within" in refusal(tmp_path / "a.pth", saved(content))
    wide = [0]
    for _ in range(60):
        wide = [wide, wide]
    refusal(tmp_path / "wide.pth", saved({"model": wide}))


def test_tensors__keys_that_are_not_text_are_refused(tmp_path):
    assert "keys that are not text: 7" in refusal(tmp_path / "a.pth", saved({7: torch.zeros(2)}))
    assert tensors_of({"a": torch.zeros(1), "b": 3}).keys() == {"a"}


def with_header(header, body=b"\0" * 8):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize("content", [
    with_header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}),
    with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**50]}}),
    with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}),
    with_header({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"}),
    struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 2**26) + b"{}", b"", b"\0" * 7,
    struct.pack("<Q", 10**5) + b"[" * 10**5,
])  # fmt: skip
def test_read__a_safetensors_header_that_lies_is_damage(tmp_path, content):
    assert "damaged checkpoint" in refusal(tmp_path / "a.safetensors", content)


def test_read__what_is_honest_is_read(tmp_path):
    weights = {"patch_embed.proj.weight": torch.randn(3, 3)}
    (tmp_path / "a.safetensors").write_bytes(save(weights))
    (tmp_path / "a.pth").write_bytes(saved({"model": weights, "epoch": 3}))
    assert vit_state(read_checkpoint(tmp_path / "a.safetensors")).keys() == weights.keys()
    assert vit_state(read_checkpoint(tmp_path / "a.pth")).keys() == weights.keys()
    assert not [name for name in checkpoints.HARMLESS if "builtins" in str(name)]
