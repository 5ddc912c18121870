"""Our experiment in MLflow, which several clones may create at once."""

from pipeline.tracking.client import client, experiment_id


def test_experiment_id__two_that_create_it_at_once_get_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with client() as mlflow_client:
        created = experiment_id(mlflow_client)
        look, missing = mlflow_client.get_experiment_by_name, [None]
        # Asked just before the other creates it.
        monkeypatch.setattr(
            mlflow_client, "get_experiment_by_name", lambda name: missing.pop() if missing else look(name)
        )
        assert experiment_id(mlflow_client) == created and not missing
