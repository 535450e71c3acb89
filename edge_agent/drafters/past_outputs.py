"""What this user was answered before, as a drafter: people ask alike, and models repeat themselves across chats.

Outputs are kept as token ids, the latest ones up to a bound, and in one file of this machine if wanted; prompts are
not kept. The places where the last three tokens occurred before are chained by hash, newest first, as LZ77 compressors
do it; those that match furthest back vote on how the text goes on, and their continuations become a small tree. How far
a vote is trusted is measured on every token that is committed, by the length of the match.
"""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_agent.drafters.interface import NO_PROPOSAL, DraftRequest, Proposal
from edgedraft.proposers.prompt_lookup import MAX_CHAIN, MAX_MATCH, MIN_PATH_PROBABILITY, MatchRates

log = logging.getLogger(__name__)

MIN_MATCH = 3  # tokens that a match has at least
HASH_SLOTS = 1 << 17  # chains
MAX_CANDIDATES = 16  # places looked at, the latest ones
MAX_VOTERS = 8  # of those that match furthest
END = -1  # stands between outputs
MIN_OUTPUT = 8  # shorter outputs are not worth keeping


class PastOutputStore:
    """The outputs, their index and their file. Not safe for use from two threads at once."""

    def __init__(self, capacity: int, file: Path | None = None, vocab_size: int = 1 << 31) -> None:
        """At most `room` tokens are kept. A file that cannot be read, or is damaged, is begun anew."""
        self._capacity = capacity
        self._file = file
        self._tokens = array("i")
        self._previous = array("i")  # of each place, the next older one in its chain, plus one
        self._heads = array("i", [0]) * HASH_SLOTS
        if file is not None:
            tokens, whole = _read(file, capacity, vocab_size)
            self._index(tokens)
            self._save(lambda: None if whole else self._rewrite(file))

    def __len__(self) -> int:
        """Tokens kept, ends included."""
        return len(self._tokens)

    def add(self, output: Sequence[int]) -> None:
        """Keep an output; the oldest ones go when there is no room."""
        if len(output) < MIN_OUTPUT:
            return
        fresh = array("i", [*output[-self._capacity // 2 :], END])
        self._index(fresh)
        if (file := self._file) is not None:
            self._save(lambda: self._append(file, fresh))

    def find_matches(self, text: Sequence[int], end: int) -> tuple[list[int], int]:
        """(places, length): text[:end] ends with the `length` tokens before each of the places; the latest first."""
        if end < MIN_MATCH:
            return [], 0
        tokens = self._tokens
        tail = text[max(0, end - MAX_MATCH) : end]
        best: list[int] = []
        longest = MIN_MATCH - 1
        place = self._heads[_slot(tail[-MIN_MATCH:])]
        for _ in range(MAX_CANDIDATES):
            if place == 0:
                break
            length = _match_length(tokens, place, tail)
            if length > longest:
                best, longest = [place], length
            elif length == longest and best and len(best) < MAX_VOTERS:
                best.append(place)
            place = self._previous[place - 1]
        return best, longest if best else 0

    def token_at(self, place: int) -> int:
        """The token at a place; END behind the last one of an output."""
        return self._tokens[place] if place < len(self._tokens) else END

    def _index(self, fresh: Sequence[int]) -> None:
        if len(self._tokens) + len(fresh) > self._capacity:
            kept = self._tokens[-self._capacity // 2 :] if self._capacity > 1 else array("i")
            first = next((i for i, token in enumerate(kept) if token == END), len(kept) - 1)
            fresh = [*kept[first + 1 :], *fresh]
            self._tokens, self._previous, self._heads = array("i"), array("i"), array("i", [0]) * HASH_SLOTS
        tokens = self._tokens
        for token in fresh:
            tokens.append(token)
            # A chain's entry is the place behind its three tokens, which is where a continuation begins.
            gram = tokens[-MIN_MATCH:]
            slot = _slot(gram) if len(gram) == MIN_MATCH and END not in gram else -1
            self._previous.append(self._heads[slot] if slot >= 0 else 0)
            if slot >= 0:
                self._heads[slot] = len(tokens)

    def _save(self, write: Callable[[], None]) -> None:
        """Where the disk fails, memory has to do."""
        try:
            write()
        except OSError as error:
            log.warning("past outputs are kept in memory only: %s", error)
            self._file = None

    def _append(self, file: Path, fresh: array[int]) -> None:
        """Or write all anew, when the file has grown to twice the room."""
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and file.stat().st_size > 8 * self._capacity:
            self._rewrite(file)
            return
        with open(file, "ab", opener=_open_private) as out:
            out.write(fresh.tobytes())

    def _rewrite(self, file: Path) -> None:
        partial = file.with_suffix(".partial")
        with open(partial, "wb", opener=_open_private) as out:
            out.write(self._tokens.tobytes())
        partial.replace(file)


class PastOutputsDrafter:
    """The drafter over a store, which several attachments share one after the other."""

    def __init__(self, store: PastOutputStore, trust: MatchRates) -> None:
        self._store, self._trust = store, trust
        self._num_measured: dict[int, int] = {}

    def open(self, session: int) -> None:
        self._num_measured[session] = 0

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        return [self._proposal(point) for point in requests]

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._num_measured.pop(session, None)
        self._store.add(output)

    def _proposal(self, point: DraftRequest) -> Proposal:
        self._measure_accuracy(point)
        places, length = self._store.find_matches(point.context, len(point.context))
        if not places:
            return NO_PROPOSAL
        tokens: list[int] = []
        parents: list[int] = []
        probabilities: list[float] = []
        # Breadth first: (node, its places, depth, its path's probability).
        level = [(-1, places, 0, 1.0)]
        while level:
            node, voters, depth, path = level.pop(0)
            trust = self._trust.probability(length + depth)
            for token, agreeing in self._votes(voters).items():
                chance = trust * len(agreeing) / len(voters)
                if path * chance < MIN_PATH_PROBABILITY:
                    continue
                tokens.append(token)
                parents.append(node)
                probabilities.append(chance)
                if depth + 1 < MAX_CHAIN:
                    level.append((len(tokens) - 1, agreeing, depth + 1, path * chance))
        return Proposal(tuple(tokens), tuple(parents), tuple(probabilities))

    def _votes(self, places: Sequence[int]) -> dict[int, list[int]]:
        """The tokens at these places, the commonest first; with each the places behind it."""
        votes: dict[int, list[int]] = {}
        for place in places:
            token = self._store.token_at(place)
            if token != END:
                votes.setdefault(token, []).append(place + 1)
        return dict(sorted(votes.items(), key=lambda vote: -len(vote[1])))

    def _measure_accuracy(self, point: DraftRequest) -> None:
        """Predict every newly committed output token, to learn what predictions are worth."""
        first = max(self._num_measured[point.session], len(point.context) - point.output_index)
        for place in range(first, point.num_committed):
            places, length = self._store.find_matches(point.context, place)
            if places:
                best = next(iter(self._votes(places)), END)
                self._trust.observe(length, best == point.context[place])
        self._num_measured[point.session] = point.num_committed


def _slot(gram: Sequence[int]) -> int:
    return hash(tuple(gram)) % HASH_SLOTS


def _match_length(tokens: array[int], place: int, tail: Sequence[int]) -> int:
    """How many tokens before `place` are those at the end of `tail`."""
    length = 0
    while length < min(len(tail), place) and tokens[place - 1 - length] == tail[-1 - length]:
        length += 1
    return length


def _read(file: Path, room: int, vocab_size: int) -> tuple[array[int], bool]:
    """The last outputs of a file, at most `room` tokens, and whether all of it was sound."""
    tokens = array("i")
    try:
        with open(file, "rb") as source:
            data = source.read(32 * room + 4)
    except FileNotFoundError:
        return tokens, True
    except OSError as error:
        log.warning("past outputs cannot be read: %s", error)
        return tokens, True
    tokens.frombytes(data[: len(data) // 4 * 4])
    if tokens and (min(tokens) < END or max(tokens) >= vocab_size):
        log.warning("%s is damaged and begun anew", file)
        return array("i"), False
    # A process that was killed may have left half an output.
    last = next((i for i in range(len(tokens), 0, -1) if tokens[i - 1] == END), 0)
    return tokens[max(0, last - room) : last], 4 * last == len(data)


def _open_private(path: str, flags: int) -> int:
    """Only the file's owner may read it."""
    return os.open(path, flags, 0o600)
