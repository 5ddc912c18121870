"""The walk on a terminal: a row for each stage that runs or waits for its slots; finished stages scroll away as one line each.

A row is drawn from what the walk tells. Only the clocks are redrawn in between: a stage that hangs prints nothing, and its row
says for how long.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.execution import CANCELLED, FAILED, SKIPPED, Outcome, progress_of
from pipeline.observing import Observer, Printed
from pipeline.walk import Walk

# Seconds without a line after which a row says so.
SILENT_SECONDS = 30
# Columns of a terminal from which a row has room for a bar, and for the last line of its stage.
MEDIUM, WIDE = 80, 100
BAR_COLUMNS = 12
# Lines of the terminal that rows leave free: for the line of totals, and the prompt.
SPARE_LINES = 4
STYLES = {FAILED: "bold red", CANCELLED: "yellow", SKIPPED: "yellow"}
WARNING = "warning:"


@contextmanager
def shown(walk: Walk) -> Iterator[Observer]:
    """What shows `walk` while the body runs: the display on a terminal, lines behind the name of their stage elsewhere."""
    console = Console(highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Printed()
        return
    display = Display(walk, console)
    with Live(display, console=console, transient=True, refresh_per_second=4):
        yield display


@dataclass
class _Row:
    """A stage that runs on `device`, or, without one, waits. line: its last line; share: of it that is done, where known."""

    device: str = ""
    started: float = 0.0
    heard: float = 0.0
    share: float | None = None
    line: str = ""

    @property
    def bar(self) -> RenderableType:
        """What of it is done."""
        return "" if self.share is None else ProgressBar(1.0, self.share)

    @property
    def state(self) -> str:
        """Waiting, running, or the share that is done."""
        running = "running" if self.share is None else f"{self.share:.0%}"
        return running if self.device else "waiting"

    @property
    def clock(self) -> str:
        """How long it has run."""
        return clock(time.monotonic() - self.started) if self.device else ""

    @property
    def news(self) -> str:
        """Its last line, or for how long there was none, or why it waits."""
        silent = time.monotonic() - self.heard
        if self.device and silent > SILENT_SECONDS:
            return f"no line for {clock(silent)}"
        return self.line if self.device or self.line else "for a slot"


@dataclass
class Display(Observer):
    """The rows as rich draws them, and the lines above them on `console`."""

    walk: Walk
    console: Console
    rows: dict[str, _Row] = field(default_factory=dict)
    ended_as: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=lambda: time.monotonic())
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def waiting(self, stage: str) -> None:
        """Add a row."""
        with self._lock:
            self.rows[stage] = _Row()

    def started(self, stage: str, device: str) -> None:
        """Start the clock of a row."""
        now = time.monotonic()
        with self._lock:
            self.rows[stage] = _Row(device, now, now)

    def line(self, stage: str, text: str) -> None:
        """Keep a row's last line and the progress that it reports; a warning stays on the terminal."""
        with self._lock:
            row = self.rows[stage]
            row.line, row.heard = text, time.monotonic()
            if (share := progress_of(text)) is not None:
                row.share = share
        if text.startswith(WARNING):
            self.console.print(f"[{stage}] {text}", markup=False, style="yellow", soft_wrap=True)

    def ended(self, outcome: Outcome) -> None:
        """Replace a row by a line above the rows."""
        with self._lock:
            self.rows.pop(outcome.stage, None)
            self.ended_as[outcome.status] += 1
        place = f" in {clock(outcome.seconds)} on {outcome.device}" if outcome.device else ""
        status = (outcome.status, STYLES.get(outcome.status, "green"))
        self.console.print(Text.assemble(f"{outcome.stage}: ", status, (place, "dim")), soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            rows = sorted(self.rows.items(), key=lambda item: (not item[1].device, item[1].started))
        room = max(1, options.size.height - SPARE_LINES)
        has_bars, has_lines = options.max_width >= MEDIUM, options.max_width >= WIDE
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=None if has_lines else 1)
        if has_bars:
            table.add_column(width=BAR_COLUMNS)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=BAR_COLUMNS)
        table.add_column(no_wrap=True, justify="right")
        if has_lines:
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for name, row in rows[:room]:
            bar, line = [row.bar] * has_bars, [Text(row.news, "dim")] * has_lines
            table.add_row(name, *bar, row.state, row.device, row.clock, *line, style="" if row.device else "dim")
        yield table
        yield Text(self._totals(more=len(rows[room:])), style="dim", no_wrap=True, overflow="ellipsis")

    def _totals(self, *, more: int) -> str:
        running = sum(bool(row.device) for row in self.rows.values())
        counts = {
            **self.ended_as,
            "running": running,
            "waiting": len(self.rows) - running,
            "to come": len(self.walk.stages) - len(self.rows) - self.ended_as.total(),
        }
        words = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        hidden = f" ({more} not shown)" if more else ""
        stopping = "cancelled, stages save and end: " if self.walk.cancelled.is_set() else ""
        return f"{stopping}{len(self.walk.stages)} stages in {clock(time.monotonic() - self.began)}: {words}{hidden}"


def clock(seconds: float) -> str:
    """Seconds as a clock shows them: 0:07, 12:34, 1:02:03."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
