import json

from pipeline.tracking.keys import DIGEST_STAGE, REPLAY_STAGE, key_of, state_of


def test_key_of__depends_on_every_recorded_hash():
    entry = {"cmd": "x", "deps": [{"path": "a", "md5": "1"}]}
    other = json.loads(json.dumps(entry))
    other["deps"][0]["md5"] = "2"
    assert key_of("s", entry) != key_of("s", other)
    assert key_of("s", entry) == key_of("s", dict(reversed(entry.items())))


def test_state_of__holds_what_the_graph_makes_and_not_what_the_lock_of_another_tree_brought_along(tmp_path):
    made, inherited = ("make@mae-0", "compare"), ("make@raw_attention-0", "make@mae-1", "older")
    entries = {name: {"cmd": "x"} for name in (*made, *inherited)}
    (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": entries}))
    (tmp_path / "params.yaml").write_text("arms: {names: [mae]}\n")
    graph = "stages: {make: {matrix: {arm: '${arms.names}', seed: [0]}}, compare: {}}"
    (tmp_path / "dvc.yaml").write_text(graph)
    assert set(state_of(tmp_path / "dvc.lock").entries) == set(made)
    (tmp_path / "params.yaml").write_text("arms: {names: [mae, raw_attention]}\n")
    assert set(state_of(tmp_path / "dvc.lock").entries) == {*made, "make@raw_attention-0"}


def test_state_of__is_of_results_and_not_of_comments_or_of_the_replay_itself(tmp_path):
    def key(**md5s):
        stages = {name: {"cmd": "x", "outs": [{"path": name, "md5": md5}]} for name, md5 in md5s.items()}
        (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": stages}))
        (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {name: {} for name in stages}}))
        return state_of(tmp_path / "dvc.lock").key

    assert key(made="1") == key(made="1", **{DIGEST_STAGE: "2", REPLAY_STAGE: "3"})
    assert key(made="1") != key(made="2")
