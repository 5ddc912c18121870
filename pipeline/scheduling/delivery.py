"""What is told to Prefect's server, delivered by a thread of its own: a slow, lost or restarted server costs its caller nothing.

States go as events, the way Prefect's own engine sends them: an event carries the time at which it happened, however late it
arrives, and counts once, however often it is sent.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from config.redaction import one_line, redacted

# Between two deliveries; for one request; the longest pause after one that was not answered.
DELIVERY_SECONDS, REQUEST_SECONDS, PAUSE_SECONDS = 0.5, 10.0, 30.0
# Of a request at the start, which a busy server refuses: a few seconds.
RETRIES = 2
# A lost server gets the last lines when it is back, and every event.
MOST_LINES, LINES_A_REQUEST = 5000, 200

# A worker's variable: what TMPDIR is to its user.
USUAL_TEMPORARY = "SEMMAE_TMPDIR"

Request = Callable[[Any], object]


class Delivery:
    """Delivers until it is closed: first events, then lines, then other requests in their order.

    always: a request of every delivery, last but for the others. The first answer that does not come is one warning, and the
    thread tries again with growing pauses. A server that refuses is told no more.
    """

    def __init__(self, always: Request) -> None:
        self._always = always
        self._lock = threading.Lock()
        self._events: list[Mapping[str, Any]] = []
        self._lines: list[Mapping[str, Any]] = []
        self._requests: list[Request] = []
        self._is_lost = False
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self._deliver, daemon=True, name="prefect")
        self._thread.start()

    def add_event(self, event: Mapping[str, Any]) -> None:
        """Deliver an event of Prefect."""
        with self._lock:
            self._events.append(event)

    def add_line(self, line: Mapping[str, Any]) -> None:
        """Deliver a log of Prefect, or lose it for later ones."""
        with self._lock:
            self._lines = [*self._lines[-MOST_LINES + 1 :], line]

    def ask(self, request: Request) -> None:
        """Make a request. request: gets Prefect's client."""
        with self._lock:
            self._requests.append(request)

    def close(self, seconds: float) -> bool:
        """Wait at most so long until everything is delivered, or refused; returns whether it is."""
        self.closing.set()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _deliver(self) -> None:
        from httpx import HTTPStatusError, TransportError

        pause = DELIVERY_SECONDS
        try:
            with connect() as client:
                while not self.closing.wait(pause) or self._has_more():
                    try:
                        self._send(client)
                        self._is_lost, pause = False, DELIVERY_SECONDS
                    except (TransportError, HTTPStatusError) as error:
                        if isinstance(error, HTTPStatusError) and error.response.status_code < 500:
                            raise
                        if not self._is_lost:
                            reason = one_line(error)[:120]
                            warn(f"does not answer ({reason}); the run goes on, and is shown there when it does")
                        self._is_lost, pause = True, min(2 * pause, PAUSE_SECONDS)
                        if self.closing.is_set():
                            time.sleep(DELIVERY_SECONDS)
        except Exception as error:
            warn(f"shows no more of this run: {one_line(error)[:300]}; the run goes on")

    def _has_more(self) -> bool:
        with self._lock:
            return bool(self._events or self._lines or self._requests)

    def _send(self, client: Any) -> None:
        with self._lock:
            events = list(self._events)
        if events:
            client.request("POST", "/events", json=events)
            with self._lock:
                del self._events[: len(events)]
        while lines := self._next_lines():
            try:
                client.create_logs(lines)
            except BaseException:
                with self._lock:
                    self._lines = [*lines, *self._lines][-MOST_LINES:]
                raise
        self._always(client)
        while self._requests:
            self._requests[0](client)
            with self._lock:
                del self._requests[0]

    def _next_lines(self) -> list[Mapping[str, Any]]:
        with self._lock:
            lines, self._lines = self._lines[:LINES_A_REQUEST], self._lines[LINES_A_REQUEST:]
        return lines


@contextmanager
def connect(*, retries: int = 0) -> Iterator[Any]:
    """A client of the server of PREFECT_API_URL that repeats a request that fails so often; of itself Prefect takes minutes."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: retries}),
        get_client(httpx_settings={"timeout": REQUEST_SECONDS}, sync_client=True) as client,
    ):
        yield client


def warn(text: str) -> None:
    """Print a warning about the server."""
    url = redacted(os.environ.get("PREFECT_API_URL", ""))
    print(f"warning: Prefect at {url} {text}", file=sys.stderr, flush=True)
