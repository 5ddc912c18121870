import pytest

from config.presets import compose
from pipeline import weights
from pipeline.weights import OFFICIAL, Official, fetch, pin


@pytest.fixture
def official(tmp_path, monkeypatch):
    """An official checkpoint whose address is a file."""
    monkeypatch.chdir(tmp_path)
    published = tmp_path / "published.pth"
    published.write_bytes(b"weights")
    monkeypatch.setitem(OFFICIAL, "tiny", Official(published.as_uri(), "vit_small_patch16_224", 224))
    return published


def test_fetch__takes_the_file_once(official):
    assert fetch("tiny").read_bytes() == b"weights"
    official.unlink()
    assert fetch("tiny").read_bytes() == b"weights"


def test_fetch__a_download_that_ends_early_leaves_nothing(official, tmp_path, monkeypatch):
    answer = weights.urllib.request.urlopen(official.as_uri())
    answer.headers.replace_header("Content-Length", "9")
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda url, timeout: answer)
    with pytest.raises(ValueError, match="teacher tiny: .*ended after 7 of 9 bytes; check the network"):
        fetch("tiny")
    assert list((tmp_path / "weights").iterdir()) == []


def test_fetch__faults_are_one_line(official):
    with pytest.raises(ValueError, match="teacher nobody: no such file, .* there are ibot_vits16"):
        fetch("nobody")
    official.unlink()
    with pytest.raises(ValueError, match="teacher tiny: file:.*check the network"):
        fetch("tiny")


def test_pin__a_teacher_that_is_not_trained_is_judged_on_few_images(tmp_path):
    document = compose("quickstart")
    (tmp_path / "file.pth").write_bytes(b"weights")
    trained = document["teacher"]["knn_images"]
    pin(document, tmp_path / "file.pth", architecture="vit_small_patch16_224", image_size=224)
    assert document["teacher"]["knn_images"] < trained
