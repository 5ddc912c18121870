"""Servers that `semmae up` started and that are gone."""

from collections.abc import Iterator

from jobs.notes import write_note
from jobs.state import state_folder
from jobs.supervision import is_alive
from pipeline.doctor.findings import Finding
from pipeline.scheduling.services import state

FORGET = ("repair forgets it", "forgotten, `semmae down` and `semmae up` start it again")


def dead_services(*, repair: bool) -> Iterator[Finding]:
    """Noted servers without a process."""
    path, services = state_folder() / "services" / "services.json", state()
    dead = [name for name, noted in services.items() if not is_alive(noted["process"])]
    if repair and dead:
        write_note(path, {name: noted for name, noted in services.items() if name not in dead})
    for name in dead:
        yield Finding(f"{path}", f"{name} is gone", FORGET[repair], services[name]["process"])
