import contextlib
import io
import shutil
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from config.params import load_params
from pipeline import cli_runs
from pipeline.tracking import registry
from pipeline.tracking.client import client, tracking_uri
from pipeline.tracking.registering import register
from shards.files import read_json
from tests.conftest import ROOT
from training.encoders import features, load_encoder

pytestmark = pytest.mark.slow

NAME = "semmae-encoder-semmae"


@pytest.fixture(scope="module")
def recorded(world, tmp_path_factory):
    """The tiny world with a dvc.lock, and the preset that its parameters would come from."""
    from dvc.repo import Repo

    folder = Path(shutil.copytree(world, tmp_path_factory.mktemp("recorded") / "world", symlinks=True))
    with open(folder / "params.yaml", "a", encoding="utf-8") as file:
        file.write("# Preset: quickstart\n")
    with contextlib.chdir(folder), Repo() as repo:
        repo.commit(None, force=True)
    return folder


@pytest.fixture(scope="module")
def registered(recorded):
    """(folder, what was printed) of the world whose arm semmae is registered; MLflow knew nothing before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(recorded)
        return recorded, register("semmae")


@pytest.fixture
def inside(registered, monkeypatch):
    """The current folder and MLflow's address are those of the registered world."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(registered[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri())
    return registered[0]


def version():
    with client() as mlflow_client:
        (found,) = mlflow_client.search_model_versions(f"name = '{NAME}'")
        return found, mlflow_client.get_run(found.run_id)


def best():
    """The seed with the best linear probe, by other means."""
    return max((0, 1), key=lambda seed: read_json(f"metrics/probe/semmae-{seed}.json")["linear_accuracy"])


def downloaded():
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}/1"))


def pixels_of(count):
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def test_register__the_version_is_of_the_run_that_pretrained_and_says_what_it_is(inside, registered):
    found, run = version()
    assert (
        registered[1].startswith(f"models:/{NAME}/1: semmae-{best()}, best linear_accuracy")
        and "\n" not in registered[1]
    )
    assert run.data.tags["dvc_stage"] == f"pretrain@semmae-{best()}" and found.run_id in registered[1]
    assert run.data.params["pretrain.batch_size"] == "8" and "loss" in run.data.metrics
    assert {given.dataset.name for given in run.inputs.dataset_inputs} == {"data/shards", "arms/semmae"}
    accuracy = read_json(f"metrics/probe/semmae-{best()}.json")["linear_accuracy"]
    assert {**found.tags, "weights_sha256": ""} == {
        "arm": "semmae",
        "seed": str(best()),
        "chosen_by": "linear_accuracy on test",
        "chosen_among_seeds": "0 1",
        "linear_accuracy": f"{accuracy:.4f}",
        "weights_sha256": "",
        "data_digest": read_json("data/shards/manifest.json")["data_digest"],
        "git_commit": run.data.tags["git_commit"],
        "git_dirty": run.data.tags["git_dirty"],
        "preset": "quickstart",
    }
    assert len(found.tags["git_commit"]) == 40
    assert (
        found.description.startswith(f"semmae-{best()}: linear probe {accuracy:.4f}")
        and found.run_id in found.description
    )


@pytest.mark.parametrize("count", [1, 5])
def test_register__mlflow_loads_it_without_pickle_and_it_sees_the_same(inside, monkeypatch, count):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    own = features(load_encoder(f"pretrained/semmae-{best()}"), pixels_of(count))
    program = mlflow.pytorch.load_model(f"models:/{NAME}@champion")
    torch.testing.assert_close(program(pixels_of(count)), own, atol=1e-5, rtol=1e-5)
    served = mlflow.pyfunc.load_model(f"models:/{NAME}/1").predict(pixels_of(count).numpy())
    torch.testing.assert_close(torch.from_numpy(served), own, atol=1e-5, rtol=1e-5)


def test_register__the_archive_holds_tensors_and_a_graph_and_no_path_of_this_machine(inside):
    with zipfile.ZipFile(downloaded() / "data" / "model.pt2") as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    for path in (str(ROOT), str(Path(torch.__file__).parent), str(inside)):
        assert not [name for name, content in records.items() if path.encode() in content]
    for kind in ("weights", "constants"):
        assert b'"use_pickle": true' not in records[f"data/{kind}/model_{kind}_config.json"]
    zipped = [name for name, content in records.items() if content[:2] == b"PK"]
    assert zipped == ["data/sample_inputs/model.pt"]
    assert not torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(records[zipped[0]]))
    example, options = torch.load(io.BytesIO(records[zipped[0]]), weights_only=True)
    assert example[0].shape == (2, 3, 32, 32) and not options


def test_register__timm_loads_what_lies_beside_it(inside):
    folder = downloaded() / "timm"
    vit = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    vit.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    encoder, images = load_encoder(f"pretrained/semmae-{best()}"), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), encoder.encode(images)[:, 1:].mean(dim=1), atol=1e-5, rtol=1e-5)
    assert "linear_accuracy" in (folder / "README.md").read_text()


def test_register__again_says_that_it_is_there(inside, capsys):
    before = version()[0]
    with client() as mlflow_client:
        mlflow_client.delete_registered_model_alias(NAME, "champion")
    cli_runs.register("semmae")
    assert capsys.readouterr().out == f"models:/{NAME}/1: has the weights of semmae-{best()} already\n"
    assert version()[0].version == before.version
    with client() as mlflow_client:
        assert mlflow_client.get_model_version_by_alias(NAME, "champion").version == before.version


def test_register__weights_or_parameters_that_dvc_lock_does_not_record_are_refused(recorded, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(recorded, tmp_path / "world", symlinks=True))
    monkeypatch.chdir(folder)
    (folder / "models" / "mae.py").write_text("# nothing of this matters to weights that are there\n")
    weights = folder / "pretrained" / "mae-0" / "model.safetensors"
    choice = registry.choose("mae", load_params())
    registry.check_recorded(choice)
    whole = weights.read_bytes()
    weights.write_bytes(b"")
    with pytest.raises(
        ValueError,
        match="pretrain@mae-0: .*pretrained/mae-0 modified.*`semmae run probe@mae-0 probe@mae-1`",
    ):
        registry.check_recorded(choice)
    weights.write_bytes(whole)
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("  mask_ratio: 0.75", "  mask_ratio: 0.5"))
    with pytest.raises(ValueError, match=r"pretrain@mae-0: parameter pretrain.mask_ratio: 0.75 -> 0.5; `semmae run"):
        registry.check_recorded(choice)


def test_register__a_lost_server_is_one_line(recorded, monkeypatch):
    monkeypatch.chdir(recorded)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="http://127.0.0.1:9: .*; nothing was registered") as raised:
        register("semmae")
    assert "\n" not in str(raised.value)
