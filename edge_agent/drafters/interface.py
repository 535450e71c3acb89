"""What a drafter is: asked at points of several sessions' texts at once, it answers each with a small tree of guesses.

Drafters know token ids and sampling parameters, nothing of draft trees, epochs or links. This file holds the
vocabulary and the combination of several drafters into one; the drafters are model_drafter.py and lookup_drafter.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgedraft.wire import Sampling


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """A place in a session's text whose continuation is to be guessed.

    `context` is everything before it: prompt, committed tokens and the drafted path; the first `settled` of it are
    prompt and committed. `index` is the output index of the token that comes next, `prediction` what the client expects
    of the output.
    """

    session: int
    context: list[int]
    num_committed: int
    output_index: int
    sampling: Sampling
    prediction: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """A tree below a point, as columns; parents come before their children.

    parents[i] indexes these columns, -1 for the point itself. probabilities[i] is the chance that the target chooses
    tokens[i] once it has chosen the parent. `complete` is False when asking again at the same point would bring more.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    complete: bool = True


NO_PROPOSAL = Proposal()
INCOMPLETE = Proposal(complete=False)


class Drafter(Protocol):
    """Used from one thread. Sessions are named by numbers that the caller chooses."""

    def open(self, session: int) -> None:
        """A session begins, or begins again with another text."""
        ...

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """One answer a point, in order; at most one point a session."""
        ...

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        """Free what the session holds; one that is not open is no error. `output` is what was written in it."""
        ...


class CombinedDrafter:
    """Several drafters as one: all are asked, and their guesses merged."""

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        self._drafters = tuple(drafters)

    def open(self, session: int) -> None:
        for drafter in self._drafters:
            drafter.open(session)

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        answers = [drafter.propose(requests) for drafter in self._drafters]
        return [merge(parts) for parts in zip(*answers, strict=True)]

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        for drafter in self._drafters:
            drafter.close(session, output)


def merge(parts: Sequence[Proposal]) -> Proposal:
    """One tree of all: the same token under the same parent is one guess, as probable as the surer drafter holds it.

    Where drafters disagree and siblings together pass certainty, all of them are scaled down to it.
    """
    tokens: list[int] = []
    parents: list[int] = []
    probabilities: list[float] = []
    children: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for part in parts:
        place = {-1: -1}
        columns = zip(part.tokens, part.parents, part.probabilities, strict=True)
        for i, (token, parent, probability) in enumerate(columns):
            siblings = children[place[parent]]
            if token in siblings:
                known = siblings[token]
                probabilities[known] = max(probabilities[known], probability)
            else:
                siblings[token] = known = len(tokens)
                tokens.append(token)
                parents.append(place[parent])
                probabilities.append(probability)
            place[i] = known
    for siblings in children.values():
        total = sum(probabilities[i] for i in siblings.values())
        if total > 1:
            for i in siblings.values():
                probabilities[i] /= total
    return Proposal(tuple(tokens), tuple(parents), tuple(probabilities), all(part.complete for part in parts))
