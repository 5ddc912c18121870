import pytest

from config.params import load_params
from pipeline.tracking import registry
from pipeline.tracking.client import client
from pipeline.tracking.tags import KEY_TAG
from shards.files import md5_of, write_json
from shards.seals import write_sealed
from tests.conftest import ROOT


@pytest.fixture
def params(tmp_path, monkeypatch):
    """The quickstart's parameters with five seeds and the arm without pretraining; the current folder is empty."""
    monkeypatch.chdir(tmp_path)
    found = load_params(ROOT / "presets" / "quickstart.yaml")
    arms = found.arms.model_copy(update={"names": [*found.arms.names, "untrained"]})
    return found.model_copy(update={"seeds": [0, 1, 2, 3, 4], "arms": arms})


def write(job, accuracy=None):
    """Weights of a job, by the file that is written last, and what its probe said."""
    write_json(f"pretrained/{job}/config.json", {})
    if accuracy is not None:
        write_json(f"metrics/probe/{job}.json", {"linear_accuracy": accuracy, "knn_accuracy": 1 - accuracy})


def test_choose__the_best_linear_probe_wins_and_of_equal_ones_the_first(params):
    for seed, accuracy in enumerate((0.5, 0.7, 0.6, 0.7, 0.4)):
        write(f"mae-{seed}", accuracy)
    write("semmae-4", 0.9)
    choice = registry.choose("mae", params)
    assert (choice.job, choice.accuracy, choice.among) == ("mae-1", 0.7, (0, 1, 2, 3, 4))
    assert choice.model == "semmae-encoder-mae"


def test_choose__only_seeds_that_run_and_are_pretrained_and_probed_count(params):
    write("mae-0", 0.5)
    write("mae-1")
    write("mae-9", 0.9)
    write_json("metrics/probe/mae-2.json", {"linear_accuracy": 0.8})
    assert registry.choose("mae", params).among == (0,)


def test_choose__an_arm_that_does_not_run_is_refused(params):
    with pytest.raises(ValueError, match="arm nope: not one .*; arms.names are semmae, mae, raw_attention, untrained"):
        registry.choose("nope", params)


def test_choose__an_arm_without_pretraining_is_refused_with_the_reason(params):
    write("untrained-0", 0.5)
    with pytest.raises(ValueError, match="arm untrained: mask none leaves its weights random"):
        registry.choose("untrained", params)


def test_choose__images_without_labels_choose_no_seed(params):
    unlabelled = params.model_copy(update={"data": params.data.model_copy(update={"labels": []})})
    with pytest.raises(ValueError, match=r"data.labels is \[\], so no linear probe .* `semmae export mae-SEED`"):
        registry.choose("mae", unlabelled)


def test_choose__without_weights_it_names_the_command_that_makes_them(params):
    with pytest.raises(ValueError, match="`semmae run probe@mae-0 probe@mae-1 probe@mae-2 .*` makes them"):
        registry.choose("mae", params)
    write("mae-0")
    with pytest.raises(ValueError, match="arm mae: no seed has pretrained weights and a probe"):
        registry.choose("mae", params)


def test_apart_from_code__leaves_data_parameters_and_commands():
    changes = [
        {"changed deps": {"models/mae.py": "modified", "data/shards": "modified"}},
        {"changed deps": {"models/vit.py": "modified"}},
        {"changed outs": {"pretrained/mae-0": "modified"}},
        "changed command",
    ]
    assert list(registry._apart_from_code(changes)) == [
        {"changed deps": {"data/shards": "modified"}},
        {"changed outs": {"pretrained/mae-0": "modified"}},
        "changed command",
    ]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder with a dvc.lock of one pretraining and what it left, outside of any git repository; MLflow knows nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_sealed("data/shards/manifest.json", {"data_digest": "d" * 64})
    write_json("metrics/pretrain/mae-0.json", {"loss": 0.5})
    write_json("dvc.yaml", {"stages": {"pretrain": {"matrix": {"arm": ["mae"], "seed": [0]}}}})
    (tmp_path / "dvc.lock").write_text(
        """
schema: '2.0'
stages:
  pretrain@mae-0:
    cmd: python -m stages.pretrain mae 0
    outs:
    - {path: metrics/pretrain/mae-0.json, hash: md5, md5: DIGEST, size: 1}
""".replace("DIGEST", md5_of("metrics/pretrain/mae-0.json"))
    )
    return tmp_path


CHOICE = registry.Choice("mae", 0, 0.5, (0, 1))


def model(folder):
    """A folder that stands for an MLflow model."""
    write_json(folder / "model" / "MLmodel", {})
    return folder / "model"


def test_source_run__what_mlflow_does_not_know_is_replayed_and_a_computation_goes_before_a_restored_stage(repository):
    restored = registry.source_run(CHOICE)
    assert restored.data.tags["cache_hit"] == "true" and restored.data.metrics["loss"] == 0.5
    assert registry.source_run(CHOICE).info.run_id == restored.info.run_id
    tags = {KEY_TAG: restored.data.tags[KEY_TAG], "cache_hit": "false"}
    with client() as mlflow_client:
        running, computed = (mlflow_client.create_run(restored.info.experiment_id, tags=tags) for _ in range(2))
        mlflow_client.set_terminated(computed.info.run_id)
    assert registry.source_run(CHOICE).info.run_id == computed.info.run_id != running.info.run_id


def test_add_version__the_same_weights_are_one_version_and_others_the_next(repository):
    run = registry.source_run(CHOICE)
    assert registry.known_version(CHOICE, "a" * 64) is None
    assert registry.add_version(CHOICE, "a" * 64, run, model(repository)) == "1"
    assert registry.add_version(CHOICE, "b" * 64, run, model(repository)) == "2"
    assert registry.add_version(CHOICE, "a" * 64, run, model(repository)) == "1"
    assert registry.known_version(CHOICE, "b" * 64) == "2"
    with client() as mlflow_client:
        assert len(mlflow_client.search_model_versions(f"name = '{CHOICE.model}'")) == 2
        found = mlflow_client.get_model_version(CHOICE.model, "2")
    assert found.run_id == run.info.run_id and found.tags["data_digest"] == "d" * 64


def test_add_version__a_server_lost_before_the_end_leaves_nothing_in_the_registry(repository, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def fail(*arguments, **options):
        raise MlflowException("gone\nfor good")

    run = registry.source_run(CHOICE)
    for lost in ("log_artifacts", "create_model_version"):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, lost, fail)
            with pytest.raises(ValueError, match="mlflow.db: gone for good; nothing was registered"):
                registry.add_version(CHOICE, "a" * 64, run, model(repository))
        with client() as mlflow_client:
            assert not mlflow_client.search_registered_models()
    assert registry.add_version(CHOICE, "a" * 64, run, model(repository)) == "1"


def test_known_version__a_broken_database_is_one_line(repository):
    database = repository / "tracking" / "mlflow.db"
    database.parent.mkdir()
    database.write_bytes(b"not a database" * 100)
    with pytest.raises(ValueError, match="mlflow.db: damaged .*not a database.*semmae doctor --repair"):
        registry.known_version(CHOICE, "a" * 64)
