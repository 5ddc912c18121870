import contextlib
import os
import socket

import psutil
import pytest

from jobs.cluster import loopback
from tests.training.conftest import assert_same_bits, finish, outcome, start, write

LOOPBACK = {"127.0.0.1", "::1"}


@pytest.fixture
def meeting(tmp_path, monkeypatch):
    """The environment of a process that `torchrun` started on one node."""
    monkeypatch.setenv(loopback.STORE, str(tmp_path / "store"))
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def interfaces():
    return [os.environ.get(f"{library}_SOCKET_IFNAME") for library in ("GLOO", "NCCL")]


@pytest.mark.parametrize("name", loopback.INTERFACES)
def test_store__sockets_are_on_the_loopback_interface_whatever_it_is_called(meeting, name):
    meeting.setattr(socket, "if_nameindex", lambda: [(1, "eth0"), (2, name), (3, "long")])
    store = loopback.store(1)
    store.set("a", "b")
    assert store.get("a") == b"b"
    assert interfaces() == [name, f"={name}"]


def test_store__the_interface_that_the_user_names_is_kept(meeting):
    meeting.setenv("GLOO_SOCKET_IFNAME", "eth7")
    meeting.setenv("NCCL_SOCKET_IFNAME", "ib")
    loopback.store(1)
    assert interfaces() == ["eth7", "ib"]


def test_store__without_a_loopback_interface_one_line_says_so(meeting):
    meeting.setattr(socket, "if_nameindex", lambda: [(1, "eth0")])
    with pytest.raises(
        ValueError, match=r"^no loopback interface \(lo or lo0\) among eth0; several processes need one$"
    ):
        loopback.store(1)


def test_store__is_none_where_torchrun_names_an_address(meeting):
    meeting.delenv(loopback.STORE)
    assert loopback.store(1) is None
    assert interfaces() == [None, None]


def listening(process):
    """The addresses at which a process and all below it wait for others; what ends meanwhile has none."""
    found = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                sockets = one.net_connections("tcp")
                found |= {entry.laddr.ip for entry in sockets if entry.status == psutil.CONN_LISTEN}
    return found


@pytest.mark.slow
def test_pretrain__processes_of_one_node_are_reached_from_this_machine_alone(job, two_processes):
    write(job, batch_size=7, epochs=5, world_size=2)
    process, found = start(job), set()
    while process.poll() is None:
        found |= listening(psutil.Process(process.pid))
    finish(process)
    assert found, "none was seen: the processes do connect"
    assert found <= LOOPBACK
    assert_same_bits(two_processes, outcome(job))
