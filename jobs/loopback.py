"""This machine is never asked through a proxy: neither by this process, whatever library asks, nor by what it starts."""

import os

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Some libraries read one of them, some the other, and some both.
_VARIABLES = ("no_proxy", "NO_PROXY")


def reach_directly(*hosts: str) -> None:
    """Add hosts to those that are reached without a proxy."""
    given = [host.strip() for name in _VARIABLES for host in os.environ.get(name, "").split(",")]
    every = ",".join(dict.fromkeys(filter(None, (*given, *hosts))))
    os.environ.update(dict.fromkeys(_VARIABLES, every))
