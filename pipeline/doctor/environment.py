"""What the pipeline runs on: versions, devices, git, space, and what of it needs a user's hand."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.request import getproxies_environment

import psutil

from config.redaction import one_line
from jobs import git as repository
from jobs.state import main_worktree
from pipeline.slots import cores

GIB = 2**30
# Less free disk or memory than this ends a quickstart.
DISK_GIB, MEMORY_GIB = 5, 2
INSTALL = "pip install --constraint constraints.txt --editable '.[test]'"
CGROUPS = Path("/sys/fs/cgroup")


class Fact(NamedTuple):
    """What is so, and the command that mends it where that is needed."""

    value: str
    advice: str = ""


def environment() -> dict[str, Fact]:
    """Name -> fact. One that cannot be examined says why."""
    facts = {}
    for look in (python, torch, packages, git, disk, memory, proxies, cache):
        try:
            facts[look.__name__] = look()
        except Exception as error:
            facts[look.__name__] = Fact(f"could not be examined: {one_line(error)[:200]}")
    return facts


def python() -> Fact:
    return Fact(f"{platform.python_version()} in {sys.prefix}")


def torch() -> Fact:
    """Read from files: to load it takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return Fact("not installed", f"`{INSTALL}`")
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    cuda = re.search(r"^cuda.*= '(\d+)\.", text, re.M)
    build = f"{version('torch')} on {len(cores())} cores"
    if not shutil.which("nvidia-smi"):
        return Fact(f"{build}; no NVIDIA driver")
    answer = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=10, check=False)
    driver = re.search(r"Driver Version: *(\S+).*CUDA[^:|]*Version: *(\d+)", answer.stdout)
    if not driver:
        return Fact(
            f"{build}; nvidia-smi: {one_line(answer.stdout + answer.stderr)[:120]}", "no GPU is used until that works"
        )
    value = f"{build}; NVIDIA driver {driver[1]}, for CUDA {driver[2]}"
    if not cuda:
        return Fact(value, f"this torch uses no GPU: `{INSTALL} --force-reinstall`")
    is_old = int(driver[2]) < int(cuda[1])
    return Fact(value, f"too old for this torch: update the driver to one for CUDA {cuda[1]}" if is_old else "")


def packages() -> Fact:
    """Installed packages against the pins of constraints.txt, by the names of folders: their metadata take half a second."""
    folders = "\n".join(os.listdir(sysconfig.get_path("purelib")))
    installed = _versions(r"^(.+)-([^-]+?)(?:\+.*)?\.dist-info$", folders)
    pins = _versions(r"^([\w.-]+)==(\S+)$", (main_worktree() / "constraints.txt").read_text(encoding="utf-8"))
    # Those of extras that are not installed are pinned too.
    others = [
        f"{name} {installed[name]} (pinned {pins[name]})"
        for name in pins
        if installed.get(name, pins[name]) != pins[name]
    ]
    if others:
        return Fact(f"{len(others)} other than in constraints.txt: {', '.join(others[:3])}", f"`{INSTALL}`")
    return Fact("as in constraints.txt")


def _versions(pattern: str, text: str) -> dict[str, str]:
    """Name, as indexes compare it, -> version."""
    return {re.sub(r"[-_.]+", "-", name).lower(): found for name, found in re.findall(pattern, text, re.M)}


def git() -> Fact:
    try:
        repository.git("rev-parse")
    except ValueError:
        return Fact("not a repository", "`git init && git add --all && git commit --message start`")
    try:
        identity = repository.identity("COMMITTER")
    except ValueError:
        return Fact("no identity", "`git config user.name NAME && git config user.email ADDRESS`")
    return Fact(f"commits as {identity.rpartition('>')[0]}>")


def disk() -> Fact:
    free = shutil.disk_usage(main_worktree()).free / GIB
    return Fact(f"{free:.0f} GiB free", "`semmae gc` deletes finished worktrees" if free < DISK_GIB else "")


def memory() -> Fact:
    """Of the machine, or of the cgroup that this process is limited by."""
    machine = psutil.virtual_memory()
    free, total = min([(machine.available, machine.total), *_limits()])
    advice = "end other programs, or lower ram_gib and workers in runtime.yaml" if free < MEMORY_GIB * GIB else ""
    return Fact(f"{free / GIB:.1f} of {total / GIB:.1f} GiB free", advice)


def _limits() -> Iterator[tuple[int, int]]:
    """(free, limit) in bytes of the cgroups, of version 2, that this process is in; what the kernel can drop is free."""
    with contextlib.suppress(OSError):
        group = CGROUPS / Path("/proc/self/cgroup").read_text(encoding="utf-8").partition("0::/")[2].partition("\n")[0]
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no limit of its own, or "max"
                limit, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
                dropped = re.search(r"^inactive_file (\d+)", (folder / "memory.stat").read_text(), re.M)
                yield limit - used + int(dropped[1] if dropped else 0), limit


def proxies() -> Fact:
    known = sorted(getproxies_environment().items())
    # `no` are the hosts that are reached without one, this machine always.
    return Fact(", ".join(f"{name} through {one_line(address)}" for name, address in known if name != "no") or "none")


def cache() -> Fact:
    """Whether DVC's cache and the tree share files by hard links."""
    from dvc.config import Config

    configured = Config(".dvc")["cache"]
    folder, kinds = Path(configured.get("dir", ".dvc/cache")), configured.get("type", [])
    if not folder.is_dir():
        return Fact(f"{folder}: not there yet")
    with tempfile.TemporaryDirectory(dir=folder) as here, tempfile.TemporaryDirectory(dir=".dvc") as there:
        Path(here, "file").touch()
        try:
            os.link(Path(here, "file"), Path(there, "file"))
        except OSError as error:
            advice = "outs take their space twice: `dvc cache dir --local FOLDER`, in this file system"
            return Fact(f"{folder}: no hard links from there ({error.strerror})", advice)
    return Fact(f"{folder}: {', '.join(kinds)}")
