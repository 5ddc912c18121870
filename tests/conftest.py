"""The tiny world: a git and DVC repository with the project's code, tiny parameters, and the outs of every stage."""

import contextlib
import importlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

# Not within a test: its logger keeps the stdout that it finds at its first import.
import dvc.repo
import hypothesis
import pytest
from filelock import FileLock

from config.params import load_params, read_yaml
from config.presets import compose, write_params
from jobs.code import ROOMS

ROOT = Path(__file__).parents[1]
TINY = {
    "creatures": {"train": 60, "test": 30, "image_size": 32},
    "teacher": {
        "image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "num_heads": 6, "epochs": 4, "batch_size": 8,
        "global_size": 32, "local_crops": 1, "local_size": 16, "prototypes": 16, "head_width": 16, "neighbours": 5,
    },
    "extract": {"batch_size": 16, "part_images": 40},
    "refine": {
        "parts": 6, "token_width": 8, "target_width": 8, "foreground_clusters": 4, "decoder_size": 16, "decoder_width": 8,
        "epochs": 4, "batch_size": 8,
    },
    "pretrain": {
        "decode_size": 32, "image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "decoder_width": 16,
        "decoder_depth": 1, "decoder_num_heads": 2, "epochs": 5, "batch_size": 8,
    },
    "monitor": {"every": 8, "images": 24, "batch_size": 16},
    "probe": {
        "batch_size": 16, "neighbours": [5, 1], "penalties": [0.1, 1.0], "max_iterations": 20, "low_shot": [0.2],
        "token_images": 1000,
    },
    "finetune": {"epochs": 4, "batch_size": 8},
    "linear_mae": {"epochs": 2, "warmup_epochs": 1, "batch_size": 8},
    "transfer": {"epochs": 1, "warmup_epochs": 0},
    "segment": {"image_size": 32, "head_width": 8, "epochs": 1, "warmup_epochs": 0, "batch_size": 8},
    "compare": {"resamples": 100, "pictures": 3, "mask_images": 20},
    "compute": {"threads": 1, "device": "cpu"},
}  # fmt: skip


def pytest_configure(config):
    # No property of ours is about time, and a busy machine is slow.
    hypothesis.settings.register_profile("no deadline", parent=hypothesis.settings(), deadline=None)
    hypothesis.settings.load_profile("no deadline")
    # Of `jobs.live`: only its own tests start followers.
    os.environ["SEMMAE_LIVE"] = "0"
    # A shell's background job ignores SIGINT, and so would every child that a test interrupts.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Mark all but a seeded draw of the costly families as slow, and keep together on a worker what shares a fixture.

    Of the fault injection, of kill and resume, and of the servers' pages `make test` runs one case a file.
    """
    families = {}
    for item in items:
        path = item.path.relative_to(ROOT)
        shared = path.parts[1] if path.parts[1] in ("servers", "chaos") else path.as_posix()
        item.add_marker(pytest.mark.xdist_group(shared))
        if item.get_closest_marker("family") and not item.get_closest_marker("slow"):
            families.setdefault(path.as_posix(), []).append(item)
    for name, family in families.items():
        for item in set(family) - {random.Random(name).choice(family)}:
            item.add_marker(pytest.mark.slow)


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=1, help="how many times test_resume.py kills each stage")
    parser.addoption("--walks", type=int, default=1, help="how many runs of the whole walk test_kills.py kills in")
    parser.addoption(
        "--chaos", type=int, default=1, help="cases in each cell of fault and artefact in tests/chaos; 0 is all"
    )
    parser.addoption("--table", help="file that the table of these cells is written to")


def recorded_copy(world, folder):
    """A copy of a world at `folder` whose outs DVC has committed."""
    shutil.copytree(world, folder, symlinks=True)
    with contextlib.chdir(folder), dvc.repo.Repo() as repo:
        repo.commit(force=True)
    return folder


def call(monkeypatch, *words):
    """Exit code of a command of `semmae`, run in this process."""
    from pipeline import cli

    monkeypatch.setattr(sys, "argv", ["semmae", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def wait_until(condition, seconds=30, every=0.02):
    """What `condition` gives when it gives something, asked every so many seconds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"what was waited for did not happen within {seconds} s"
        time.sleep(every)
    return found


@pytest.fixture(scope="module")
def browser():
    """The machine's own Chromium without a window. Its driver runs an event loop: a module's tests at a time."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine: what is tested in a browser was not; install the package chromium")
    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
        launched = playwright.chromium.launch(executable_path=path, args=quiet)
        yield launched
        launched.close()


def module_of(command):
    """The module that a stage's command runs: `exec python -m MODULE ...`."""
    words = command.split()
    assert words[:3] == ["exec", "python", "-m"], command
    return words[3]


def expand(stages=None, params=None):
    """(stage name as DVC prints it, module, arguments) of every job of dvc.yaml, in the order of the file."""
    stages = stages or read_yaml(ROOT / "dvc.yaml")["stages"]
    lists = {"${arms.names}": params.arms.names, "${seeds}": params.seeds, "${data.generate}": params.data.generate,
             "${data.part_truth}": params.data.part_truth, "${data.labels}": params.data.labels,
             "${linear_mae.optimizers}": params.linear_mae.optimizers,
             "${transfer.sets}": params.transfer.sets, "${segment.sets}": params.segment.sets}  # fmt: skip
    for name, stage in stages.items():
        matrix = stage.get("matrix", {})
        for values in itertools.product(*(lists[source] for source in matrix.values())):
            # As DVC does: the command has no word of the matrix, the name of the stage has them all.
            label = name + ("@" + "-".join(map(str, values)) if values else "")
            yield (
                label,
                module_of(stage["cmd"]),
                [*stage["cmd"].split()[4:], *arguments_of(matrix, values)],
            )


def arguments_of(matrix, values):
    """What a stage takes of an item of its matrix; the other keys are there to switch it off by an empty list."""
    taken = {"optimizer", "set", "arm", "seed"}
    return [str(value) for key, value in zip(matrix, values, strict=True) if key in taken]


def run_stage(folder, module, arguments=()):
    """Run a stage's main in this process, in `folder`."""
    before, argv = os.getcwd(), sys.argv
    os.chdir(folder)
    sys.argv = [module, *arguments]
    try:
        importlib.import_module(module).main()
    finally:
        sys.argv = argv
        os.chdir(before)


def make_world(folder, **changes):
    """A repository with the project's code and tiny parameters, and no outs."""
    for name in (*ROOMS, "presets"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "runtime.yaml"):
        shutil.copyfile(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    shutil.copyfile(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    document = compose("quickstart")
    for group, values in {**TINY, **changes}.items():
        if isinstance(values, dict):
            document[group].update(values)
        else:
            document[group] = values
    write_params(document, folder / "params.yaml")
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], [*identity, "commit", "-qm", "world"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The tiny world with the outs of every stage; tests copy it before they change anything (`copied_world`).

    The workers of pytest-xdist share one: the first makes it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "world"
    with FileLock(f"{folder}.lock"):
        if not folder.with_suffix(".ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make_world(folder)
            for _, module, arguments in expand(params=load_params(folder / "params.yaml")):
                if module != "pipeline.tracking":
                    run_stage(folder, module, arguments)
            folder.with_suffix(".ready").touch()
    return folder


@pytest.fixture
def copied_world(world, tmp_path):
    """A copy of the tiny world that a test may change."""
    return Path(shutil.copytree(world, tmp_path / "world", symlinks=True))


@pytest.fixture(scope="session")
def object_server():
    """An S3 server on loopback."""
    from tests.object_store import ObjectServer

    server = ObjectServer()
    yield server
    server.stop()


@pytest.fixture
def bucket(object_server, monkeypatch):
    """An empty bucket, and the environment in which this process and its children find its server."""
    from s3fs import S3FileSystem

    from shards import storage
    from tests.object_store import ENVIRONMENT, Bucket

    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": object_server.url}.items():
        monkeypatch.setenv(name, value)
    yield Bucket(object_server)
    # The next test may be about another server.
    storage._file_system.cache_clear()
    S3FileSystem.clear_instance_cache()
