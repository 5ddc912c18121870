import pytest

from pipeline import graph


def test_stage_entries__a_truncated_lock_is_named(tmp_path):
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages:\n  a:\n    cmd: [")
    with pytest.raises(ValueError, match=r"dvc\.lock"):
        graph.stage_entries(tmp_path / "dvc.lock")
    assert graph.stage_entries(tmp_path / "none.lock") == {}
