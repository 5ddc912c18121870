"""Servers that `semmae up` started and that are gone."""

from collections.abc import Iterator

from jobs.notes import write_note
from jobs.state import state_folder
from jobs.supervision import is_alive
from pipeline.scheduling.services import state


def dead_services(*, repair: bool) -> Iterator[str]:
    """Noted servers without a process."""
    path, services = state_folder() / "services" / "services.json", state()
    dead = [name for name, noted in services.items() if not is_alive(noted["process"])]
    if repair and dead:
        write_note(path, {name: noted for name, noted in services.items() if name not in dead})
    for name in dead:
        done = "forgotten, `semmae down` and `semmae up` start it again" if repair else "repair forgets it"
        yield f"{path}: {name} is gone ({services[name]['process']}); {done}"
