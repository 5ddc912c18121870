"""Which places are addresses of a store or of a port, and which addresses may stand in parameters and manifests."""

import re
from pathlib import Path


def is_url(place: str | Path) -> bool:
    """Whether a place is a URL such as `s3://bucket/prefix`, and no path."""
    return "://" in str(place)


def host_and_port(place: str) -> tuple[str, int] | None:
    """The parts of HOST:PORT, where an IPv6 address may stand in brackets; None for what is none."""
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)


def check_url(url: str, name: str) -> None:
    """ValueError unless `url` is a URL without a user and a password; they would end up in git and in every manifest.

    The message does not repeat the URL. AWS's secret keys hold slashes, so a colon that no port follows counts too.
    """
    if not is_url(url):
        raise ValueError(f"{name} {url!r} is no URL; write s3://BUCKET/PREFIX, or file:///FOLDER")
    host = url.split("://", 1)[1].split("/", 1)[0]
    if "@" in host or re.search(r":(?!\d+$)", host):
        raise ValueError(
            f"{name}: the URL holds a user or a password; take them out of it and set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or the store's own variables"
        )
