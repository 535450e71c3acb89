"""What a generation yields: typed parts of each choice's output, and each choice's end.

A choice's plain text is made into parts in one place, a Reader; the shapes that clients see are made from the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from edgedraft.wire import FinishReason, TokenLogprobs
from gateway.speculation_stats import SpeculationStats


@dataclass(frozen=True, slots=True)
class Delta:
    """More text of one choice, and the tokens that end in it.

    The text is empty only where tokens that have none are told for the sake of their `logprobs`: one a token, where
    they were asked for.
    """

    choice: int
    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """A choice's end. `tokens` are those that count: none behind a stop string.

    `predicted` tells of the job's prediction how many tokens were accepted and how many were not.
    """

    choice: int
    reason: FinishReason
    tokens: int
    stats: SpeculationStats
    predicted: tuple[int, int] = (0, 0)


Part = Delta
Event = Part | Finished


class Reader(Protocol):
    """Makes one choice's plain text into parts. Fed in order; `end` comes after the last text."""

    def read(self, delta: Delta) -> Iterable[Part]: ...

    def end(self, finished: Finished) -> Iterable[Event]:
        """What was held back, and the end; that last, with the reason that clients are to see."""
        ...


class PlainText:
    """The reader of output that is nothing but text."""

    def read(self, delta: Delta) -> Iterable[Part]:
        return (delta,)

    def end(self, finished: Finished) -> Iterable[Event]:
        return (finished,)


MakeReader = Callable[[], Reader]
