"""The live view of `edgedraft attach` on a terminal: the link, the sessions, and how many target steps drafting saved.

It displays draft statistics and link events and changes nothing. Without a terminal LineObserver takes its place.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edge_agent.drafting.stats import DraftStats, StatsCollector
from edgedraft.wire import AgentWelcome, Hello

REFRESHES_PER_SECOND = 4
RATE_SECONDS = 5.0  # the interval of the shown rates
BAR_SECONDS, BARS = 10.0, 30  # acceptance over time: seconds per bar, bars
BLOCKS = "▁▂▃▄▅▆▇█"
LOG_LINES = 4  # log lines shown


class StatsHistory:
    """The total draft statistics over the last minutes."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, DraftStats]] = deque([(0.0, DraftStats())])

    def add(self, now: float, total: DraftStats) -> None:
        """Record the totals at `now`, in seconds since the start; samples too close to the last one are skipped."""
        if now - self._seen[-1][0] >= 0.5 * RATE_SECONDS / REFRESHES_PER_SECOND:
            self._seen.append((now, total))
        while self._seen[0][0] < now - BAR_SECONDS * BARS - RATE_SECONDS:
            self._seen.popleft()

    def between(self, start: float, end: float) -> DraftStats:
        """The statistics between two times."""
        first = next((c for t, c in reversed(self._seen) if t <= start), self._seen[0][1])
        last = next((c for t, c in reversed(self._seen) if t <= end), self._seen[0][1])
        return DraftStats(
            last.drafted - first.drafted, last.accepted - first.accepted, last.committed - first.committed
        )

    def acceptance_per_bar(self, now: float) -> list[float | None]:
        """The share of committed tokens that were accepted drafts, per BAR_SECONDS; None where none was committed."""
        shares: list[float | None] = []
        for bar in range(min(BARS, int(now / BAR_SECONDS)), 0, -1):
            counts = self.between(now - bar * BAR_SECONDS, now - (bar - 1) * BAR_SECONDS)
            shares.append(counts.accepted / counts.committed if counts.committed else None)
        return shares


class LiveView(logging.Handler):
    """An Observer, and the only log handler while it is shown."""

    def __init__(self, url: str, hello: Hello, stats: StatsCollector, console: Console | None = None) -> None:
        super().__init__()
        self._url, self._hello, self._stats = url, hello, stats
        self._began = time.monotonic()
        self._link = Text("connecting", style="yellow")
        self._model = ""
        self._pause = ""
        self._rtt: float | None = None
        self._history = StatsHistory()
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._live = Live(
            get_renderable=self.render,
            console=console or Console(),
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=False,
        )
        self._replaced: list[logging.Handler] = []

    def attached(self, welcome: AgentWelcome) -> None:
        self._link = Text(f"attached as {welcome.agent}", style="green")
        self._model = welcome.model

    def round_trip(self, seconds: float) -> None:
        self._rtt = seconds

    def lost(self, why: str, again_in: float) -> None:
        self._rtt = None
        self._link = Text(f"no gateway: {why}; next try in {again_in:.0f} s", style="red")

    def moving(self, why: str) -> None:
        self._rtt = None
        self._link = Text(f"moving: {why}", style="yellow")

    def paused(self, why: str) -> None:
        self._pause = why

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self._lines.append(f"{time.strftime('%H:%M:%S')} {record.getMessage()}")

    def __enter__(self) -> Self:
        root = logging.getLogger()
        self._replaced, root.handlers = root.handlers, [self]
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        logging.getLogger().handlers = self._replaced

    def render(self) -> RenderableType:
        """The view at this moment."""
        now = time.monotonic() - self._began
        snapshot = self._stats.snapshot()
        total = snapshot.total
        self._history.add(now, total)
        recent = self._history.between(now - RATE_SECONDS, now)
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        rtt = "" if self._rtt is None else f", round trip {1e3 * self._rtt:.0f} ms"
        table.add_row("gateway", Text.assemble(self._url, "\n", self._link, rtt))
        if self._model:
            table.add_row("drafting for", Text(self._model))  # from the gateway: not to be parsed as markup
        table.add_row("with", self._hello.drafter)
        if self._pause:
            table.add_row("paused", Text(self._pause, style="yellow"))
        table.add_row("sessions", f"{len(snapshot.sessions)} of {self._hello.max_sessions}")
        table.add_row("drafted", f"{total.drafted:,} tokens, {recent.drafted / RATE_SECONDS:.0f} per second")
        table.add_row("written", f"{total.committed:,} tokens, {recent.committed / RATE_SECONDS:.0f} per second")
        table.add_row("accepted", _accepted(total))
        table.add_row("over time", Text(render_bars(self._history.acceptance_per_bar(now)), style="cyan"))
        table.add_row("saved", _saved(total))
        shown = [table, Text("\n".join(self._lines), style="yellow")] if self._lines else [table]
        return Panel(
            Group(*shown), title="EdgeDraft agent", subtitle=f"up {_duration(now)} · Ctrl-C detaches", expand=False
        )


def render_bars(shares: Sequence[float | None]) -> str:
    """Shares from 0 to 1 as a line of block characters; a dot for None."""
    return "".join("·" if share is None else BLOCKS[min(7, int(8 * share))] for share in shares)


def _accepted(total: DraftStats) -> str:
    if not total.drafted:
        return "none yet"
    return f"{total.accepted:,} tokens, {total.accepted / total.drafted:.0%} of those drafted"


def _saved(total: DraftStats) -> str:
    """Each accepted token saves one step of the target."""
    if not total.committed:
        return "nothing yet"
    return (
        f"{total.accepted:,} of {total.committed:,} steps of the large model ({total.accepted / total.committed:.0%})"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
