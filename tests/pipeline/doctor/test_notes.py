from jobs.notes import read_note, write_note
from pipeline.doctor.checks import examine
from tests.pipeline.doctor.conftest import lines


def test_damaged_state__notes_that_are_damaged_are_removed_and_an_experiments_is_written_again(tree):
    state = tree / ".semmae"
    paths = [
        state / name
        for name in ("records/make.json", "executions/make.json", "replayed.json", "services/services.json")
    ]
    note = state / "experiments" / "slow.json"
    for path in (*paths, note):
        write_note(path, {"value": 1})
        path.write_text(path.read_text().replace("1", "2", 1))
    expected = {str(path): "removed" for path in paths} | {str(note): "written again"}
    for repair, words in ((False, "repair "), (True, "")):
        found = [line for line in lines(repair=repair) if ": damaged, or of another version; " in line]
        assert len(found) == 5 and all(words in line for line in found)
    assert {line.partition(": ")[0]: line.partition("; ")[2] for line in found} == expected
    assert not any(path.exists() for path in paths) and set(read_note(note)) == {"started"}
    assert examine(repair=True) == []
