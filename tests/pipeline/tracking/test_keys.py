import json

from pipeline.tracking.keys import key_of


def test_key_of__depends_on_every_recorded_hash():
    entry = {"cmd": "x", "deps": [{"path": "a", "md5": "1"}]}
    other = json.loads(json.dumps(entry))
    other["deps"][0]["md5"] = "2"
    assert key_of("s", entry) != key_of("s", other)
    assert key_of("s", entry) == key_of("s", dict(reversed(entry.items())))
