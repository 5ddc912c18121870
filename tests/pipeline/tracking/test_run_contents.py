import math

import pytest

from pipeline.tracking import replay as tracking
from pipeline.tracking import run_damage
from pipeline.tracking.run_contents import CONTENT_TAG, Content, Point, write_content


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def write(content, status="FINISHED", ended=2000):
    with tracking.client() as client:
        run = client.create_run(tracking._experiment(client), start_time=1000, run_name="one", tags={"stage": "x"})
        write_content(client, run, content, status, ended)
        client.set_terminated(run.info.run_id, "FINISHED", 2000)
    return run.info.run_id


def test_digest__is_of_what_a_database_gives_back_whatever_the_values(repository):
    from mlflow.entities import Dataset

    numbers = [0.1, -0.0, 3, 2**53, 5e-324, math.nan, math.inf, -math.inf, 1.7976931348623157e308]
    points = [Point(f"m{place}", value, 5, 0) for place, value in enumerate(numbers)]
    points += [Point("loss", 1 / (step + 1), 5, step) for step in range(1500)] + [Point("loss", 1.0, 5, 0)]
    params = {
        f"p{place}": text for place, text in enumerate(["", "a" * 6000, "ß 漢 \U0001f600", "a\nb", " x ", *"abc" * 50])
    }
    datasets = [
        Dataset(name=f"d{place % 2}", digest="1", source_type="dvc", source=f"d{place % 2}") for place in range(3)
    ]
    assert write(Content(params, points, datasets))
    assert run_damage.damaged_runs(tracking.database()) == []


@pytest.mark.parametrize("status, ended", [("FAILED", 2000), ("FINISHED", 2001)])
def test_digest__holds_how_and_when_a_run_ended(repository, status, ended):
    run_id = write(Content(), status, ended)
    assert [run.run_id for run in run_damage.damaged_runs(tracking.database())] == [run_id]


def test_content_tag__names_the_run_of_the_pipeline_a_second_time(repository):
    run_id = write(Content())
    with tracking.client() as client:
        assert client.get_run(run_id).data.tags[CONTENT_TAG].split()[1:] == [run_id]
