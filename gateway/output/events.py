"""What a generation yields: typed parts of each choice's output, and each choice's end.

A choice's plain text is made into parts in one place, a Reader; the shapes that clients see are made from the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from edgedraft.wire import FinishReason, TokenLogprobs
from gateway.sessions.speculation_stats import SpeculationStats

EndReason = FinishReason | Literal["tool_calls"]


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
class Reasoning:
    """More of what one choice thinks before it answers; never empty."""

    choice: int
    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """One choice begins a tool call, its `index`th from 0: the function `name`, under a new id."""

    choice: int
    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the arguments of one choice's `index`th call, a JSON text; never empty."""

    choice: int
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A choice's end. `tokens` are those that count, none behind a stop string; `reasoning` are those of thinking.

    `predicted` tells of the job's prediction how many tokens were accepted and how many were not.
    """

    choice: int
    reason: EndReason
    tokens: int
    stats: SpeculationStats
    predicted: tuple[int, int] = (0, 0)
    reasoning: int = 0


Part = Delta | Reasoning | CallBegun | CallArguments
Event = Part | Finished


class Reader(Protocol):
    """Makes one choice's plain text into parts. Fed in order; `end` comes after the last text."""

    @property
    def wanted(self) -> frozenset[int]:
        """Special tokens, which have no text otherwise, whose text it has to see."""
        ...

    def read(self, delta: Delta) -> Iterable[Part]: ...

    def end(self, finished: Finished) -> Iterable[Event]:
        """What was held back, and the end; that last, with the reason that clients are to see."""
        ...


class PlainText:
    """The reader of output that is nothing but text."""

    wanted: frozenset[int] = frozenset()

    def read(self, delta: Delta) -> Iterable[Part]:
        return (delta,)

    def end(self, finished: Finished) -> Iterable[Event]:
        return (finished,)


MakeReader = Callable[[], Reader]
