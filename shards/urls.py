"""URLs of stores and HOST:PORT addresses: recognised, split, and checked before they reach parameters and manifests."""

import re
from pathlib import Path


def is_url(place: str | Path) -> bool:
    """Whether a place is a URL such as `s3://bucket/prefix` rather than a path."""
    return "://" in str(place)


def host_and_port(place: str) -> tuple[str, int] | None:
    """(host, port) of HOST:PORT, brackets around an IPv6 address removed; None for anything else."""
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)


def check_url(url: str, name: str) -> None:
    """ValueError unless `url` is a URL without user and password, which git and every manifest would record.

    The message does not repeat the URL. A colon without a port counts as a password, because AWS's secret keys hold slashes.
    """
    if not is_url(url):
        raise ValueError(f"{name} {url!r} is not a URL; write s3://BUCKET/PREFIX, or file:///FOLDER")
    host = url.split("://", 1)[1].split("/", 1)[0]
    if "@" in host or re.search(r":(?!\d+$)", host):
        raise ValueError(
            f"{name}: the URL holds a user or a password; take them out of it and set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or the store's own variables"
        )
