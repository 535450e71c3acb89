"""The drafter interface: a batch of draft requests in, one small tree of proposed tokens per request out.

Drafters see token ids and sampling parameters. They know nothing of draft trees, epochs or links. This module also
combines several drafters into one; the drafters themselves are the other modules of this package.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgedraft.wire import Sampling


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """A position in a session's text whose next tokens are wanted.

    `context` holds all tokens before it: the prompt, the committed output and the drafted path. The first
    `num_committed` of them are prompt and committed output. `output_index` is the output index of the next token,
    `prediction` the client's predicted output (OpenAI's `prediction` parameter) as token ids.
    """

    session: int
    context: list[int]
    num_committed: int
    output_index: int
    sampling: Sampling
    prediction: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """Candidate tokens after a draft request, as a tree in columns of equal length; parents precede their children.

    parents[i] is an index into these columns, or -1 for the requested position itself. probabilities[i] estimates how
    likely the target is to choose tokens[i], given that it chose the parent. `complete` is False when the same request
    would return more later, such as after the rest of a long context has been prefilled. `expanded` are the indices of
    tokens whose children are complete: a request behind one of them would return nothing new.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    complete: bool = True
    expanded: tuple[int, ...] = ()


NO_PROPOSAL = Proposal()
INCOMPLETE = Proposal(complete=False)


class Drafter(Protocol):
    """Proposes tokens for several sessions. Used from one thread; the caller chooses the session numbers."""

    def open(self, session: int) -> None:
        """Start a session, or restart it with another text."""
        ...

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """Return one proposal per request, in order.

        A session may have several requests, for positions in its draft tree. They have the committed text, that is
        `num_committed` and context[:num_committed], in common; the first one counts most.
        """
        ...

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        """Free the session's resources; a no-op when it is not open. `output` holds its committed output tokens."""
        ...


class CombinedDrafter:
    """Several drafters as one: each gets every request, and their proposals are merged."""

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        self._drafters = tuple(drafters)

    def open(self, session: int) -> None:
        for drafter in self._drafters:
            drafter.open(session)

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        proposals = [drafter.propose(requests) for drafter in self._drafters]
        return [merge(parts) for parts in zip(*proposals, strict=True)]

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        for drafter in self._drafters:
            drafter.close(session, output)


def merge(parts: Sequence[Proposal]) -> Proposal:
    """Merge proposals for one request into one tree.

    The same token under the same parent becomes one node with the highest of its probabilities. Where the
    probabilities of siblings add up to more than 1, they are scaled down to 1.
    """
    proposed = [part for part in parts if part.tokens]
    if len(proposed) <= 1 and all(part.complete for part in parts):
        return proposed[0] if proposed else NO_PROPOSAL
    tokens: list[int] = []
    parents: list[int] = []
    probabilities: list[float] = []
    expanded: set[int] = set()
    children: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for part in parts:
        merged = {-1: -1}  # index in this part -> index in the merged tree
        columns = zip(part.tokens, part.parents, part.probabilities, strict=True)
        for i, (token, parent, probability) in enumerate(columns):
            siblings = children[merged[parent]]
            if token in siblings:
                known = siblings[token]
                probabilities[known] = max(probabilities[known], probability)
            else:
                siblings[token] = known = len(tokens)
                tokens.append(token)
                parents.append(merged[parent])
                probabilities.append(probability)
            merged[i] = known
        expanded.update(merged[i] for i in part.expanded)
    for siblings in children.values():
        total = sum(probabilities[i] for i in siblings.values())
        if total > 1:
            for i in siblings.values():
                probabilities[i] /= total
    complete = all(part.complete for part in parts)
    return Proposal(tuple(tokens), tuple(parents), tuple(probabilities), complete, tuple(sorted(expanded)))


def first_chain(proposal: Proposal) -> list[int]:
    """The tokens of the path that takes the first child each time, from the requested position on."""
    chain: list[int] = []
    parent = -1
    for i, (token, its_parent) in enumerate(zip(proposal.tokens, proposal.parents, strict=True)):
        if its_parent == parent:
            chain.append(token)
            parent = i
    return chain
