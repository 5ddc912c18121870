import json

from pipeline.tracking.keys import DIGEST_STAGE, REPLAY_STAGE, key_of, state_of


def test_key_of__depends_on_every_recorded_hash():
    entry = {"cmd": "x", "deps": [{"path": "a", "md5": "1"}]}
    other = json.loads(json.dumps(entry))
    other["deps"][0]["md5"] = "2"
    assert key_of("s", entry) != key_of("s", other)
    assert key_of("s", entry) == key_of("s", dict(reversed(entry.items())))


def test_state_of__is_of_results_and_not_of_comments_or_of_the_replay_itself(tmp_path):
    def key(**md5s):
        stages = {name: {"cmd": "x", "outs": [{"path": name, "md5": md5}]} for name, md5 in md5s.items()}
        (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": stages}))
        return state_of(tmp_path / "dvc.lock").key

    assert key(made="1") == key(made="1", **{DIGEST_STAGE: "2", REPLAY_STAGE: "3"})
    assert key(made="1") != key(made="2")
