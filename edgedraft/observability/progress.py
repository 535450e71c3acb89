"""Progress of long jobs on stderr: a rich progress bar on a terminal, a plain line every 15 seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]
LINE_SECONDS = 15.0


@contextmanager
def progress(title: str, total: float | None = None, unit: str = "") -> Iterator[Advance]:
    """Yields advance(by=1.0, note=None), to be called as the work proceeds."""
    if sys.stderr.isatty():
        with _bar(title, total, unit) as advance:
            yield advance
    else:
        with _lines(title, total, unit) as advance:
            yield advance


@contextmanager
def _bar(title: str, total: float | None, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} " + unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=total, note="")

        def advance(by: float = 1.0, note: str | None = None) -> None:
            bars.advance(task, by)
            if note is not None:
                bars.update(task, note=note)

        yield advance


@contextmanager
def _lines(title: str, total: float | None, unit: str) -> Iterator[Advance]:
    started = last = time.monotonic()
    done = 0.0

    def print_line(text: str) -> None:
        print(f"{title}: {text}", file=sys.stderr, flush=True)

    def advance(by: float = 1.0, note: str | None = None) -> None:
        nonlocal done, last
        done += by
        now = time.monotonic()
        if now - last >= LINE_SECONDS:
            last = now
            of = f" of {total:,.0f}" if total else ""
            print_line(f"{done:,.0f}{of} {unit} after {now - started:.0f} s {note or ''}".rstrip())

    print_line("started")
    yield advance
    print_line(f"done in {time.monotonic() - started:.1f} s")
