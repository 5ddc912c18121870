from pipeline.doctor import flow_runs
from pipeline.doctor.checks import examine


def test_dead_flow_runs__a_server_that_does_not_answer_is_a_line(tree, monkeypatch):
    def refuse():
        raise OSError("connection refused")

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(flow_runs.flow_runs, "client", refuse)
    assert examine(repair=True) == ["dead flow runs: could not be examined: connection refused"]
