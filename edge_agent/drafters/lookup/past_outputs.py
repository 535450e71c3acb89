"""Past outputs as a drafter: tokens that followed the same context in this user's earlier outputs.

The latest outputs are kept as token ids up to a bound, and optionally in one file of this machine; prompts are not
kept. Positions that follow the same three tokens are chained by hash, newest first, as in LZ77 compressors. The
positions with the longest match vote on the next token, and their continuations become a small tree. The probability
given to a vote depends on the length of the match and is calibrated on every committed token.
"""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_agent.drafters.interface import NO_PROPOSAL, DraftRequest, Proposal
from edgedraft.private_files import make_private_folder, narrow
from edgedraft.proposers.prompt_lookup import MAX_CHAIN, MAX_MATCH, MIN_PATH_PROBABILITY, MatchRates

log = logging.getLogger(__name__)

MIN_MATCH = 3  # tokens
HASH_SLOTS = 1 << 17  # chains
MAX_CANDIDATES = 16  # positions compared per lookup, the latest ones
MAX_VOTERS = 8  # positions kept of those with the longest match
END = -1  # separates outputs
MIN_OUTPUT = 8  # tokens; shorter outputs are not kept


class PastOutputStore:
    """The outputs, their index and their file. Not thread-safe."""

    def __init__(self, capacity: int, file: Path | None = None, vocab_size: int = 1 << 31) -> None:
        """Keep at most `capacity` tokens. A damaged file is replaced; one that cannot be read counts as empty."""
        self._capacity = capacity
        self._half = capacity // 2  # what one output takes at most, and what is kept of others when it is full
        self._file = file
        self._tokens = array("i")
        self._previous = array("i")  # at [p - 1]: the position before p in its chain; 0 ends it
        self._heads = array("i", [0]) * HASH_SLOTS
        if file is not None:
            tokens, intact = _read(file, capacity, vocab_size)
            self._index(tokens)
            self._save(lambda: None if intact else self._rewrite(file))

    def __len__(self) -> int:
        """Tokens kept, separators included."""
        return len(self._tokens)

    def add(self, output: Sequence[int]) -> None:
        """Keep an output; the oldest ones are dropped when the capacity is used up."""
        if len(output) < MIN_OUTPUT:
            return
        fresh = array("i", [*output[-max(1, self._half - 1) :], END])
        self._index(fresh)
        if (file := self._file) is not None:
            self._save(lambda: self._append(file, fresh))

    def find_matches(self, text: Sequence[int], end: int) -> tuple[list[int], int]:
        """Find (positions, length): the `length` tokens before each position are the last ones of text[:end].

        Only positions with the longest match are returned, the latest first; ([], 0) if none matches.
        """
        if end < MIN_MATCH:
            return [], 0
        tokens = self._tokens
        tail = text[max(0, end - MAX_MATCH) : end]
        best: list[int] = []
        longest = MIN_MATCH - 1
        position = self._heads[_slot(tail[-MIN_MATCH:])]
        for _ in range(MAX_CANDIDATES):
            if position == 0:
                break
            length = _match_length(tokens, position, tail)
            if length > longest:
                best, longest = [position], length
            elif length == longest and best and len(best) < MAX_VOTERS:
                best.append(position)
            position = self._previous[position - 1]
        return best, longest if best else 0

    def token_at(self, position: int) -> int:
        """The token at a position; END after the last one of an output."""
        return self._tokens[position] if position < len(self._tokens) else END

    def _index(self, fresh: Sequence[int]) -> None:
        if len(self._tokens) + len(fresh) > self._capacity:
            kept = self._tokens[-self._half :] if self._half else array("i")
            first = next((i for i, token in enumerate(kept) if token == END), len(kept) - 1)
            fresh = [*kept[first + 1 :], *fresh]
            self._tokens, self._previous, self._heads = array("i"), array("i"), array("i", [0]) * HASH_SLOTS
        tokens = self._tokens
        for token in fresh:
            tokens.append(token)
            # A chain links the positions after its three tokens, where the continuations begin.
            gram = tokens[-MIN_MATCH:]
            slot = _slot(gram) if len(gram) == MIN_MATCH and END not in gram else -1
            self._previous.append(self._heads[slot] if slot >= 0 else 0)
            if slot >= 0:
                self._heads[slot] = len(tokens)

    def _save(self, write: Callable[[], None]) -> None:
        """Run `write`; after an OSError the outputs stay in memory only."""
        try:
            write()
        except OSError as error:
            log.warning("past outputs are kept in memory only: %s", error)
            self._file = None

    def _append(self, file: Path, fresh: array[int]) -> None:
        """Append to the file, or rewrite it once it has grown to twice the capacity."""
        make_private_folder(file.parent)
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
    """Proposes from a store, which consecutive attachments share."""

    def __init__(self, store: PastOutputStore, trust: MatchRates) -> None:
        self._store, self._trust = store, trust
        self._num_measured: dict[int, int] = {}

    def open(self, session: int) -> None:
        self._num_measured[session] = 0

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        return [self._proposal(request) for request in requests]

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._num_measured.pop(session, None)
        self._store.add(output)

    def _proposal(self, request: DraftRequest) -> Proposal:
        self._measure_accuracy(request)
        positions, length = self._store.find_matches(request.context, len(request.context))
        if not positions:
            return NO_PROPOSAL
        tokens: list[int] = []
        parents: list[int] = []
        probabilities: list[float] = []
        # Breadth first: (node, its positions, depth, its path's probability).
        level = [(-1, positions, 0, 1.0)]
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

    def _votes(self, positions: Sequence[int]) -> dict[int, list[int]]:
        """The tokens at these positions, the most frequent first, each with the positions after it."""
        votes: dict[int, list[int]] = {}
        for position in positions:
            token = self._store.token_at(position)
            if token != END:
                votes.setdefault(token, []).append(position + 1)
        return dict(sorted(votes.items(), key=lambda vote: -len(vote[1])))

    def _measure_accuracy(self, request: DraftRequest) -> None:
        """Predict every newly committed output token, and record by match length how often that was right."""
        first = max(self._num_measured[request.session], len(request.context) - request.output_index)
        for position in range(first, request.num_committed):
            positions, length = self._store.find_matches(request.context, position)
            if positions:
                best = next(iter(self._votes(positions)), END)
                self._trust.observe(length, best == request.context[position])
        self._num_measured[request.session] = request.num_committed


def _slot(gram: Sequence[int]) -> int:
    return hash(tuple(gram)) % HASH_SLOTS


def _match_length(tokens: array[int], position: int, tail: Sequence[int]) -> int:
    """The number of tokens before `position` that equal the end of `tail`."""
    length = 0
    while length < min(len(tail), position) and tokens[position - 1 - length] == tail[-1 - length]:
        length += 1
    return length


def _read(file: Path, capacity: int, vocab_size: int) -> tuple[array[int], bool]:
    """The last outputs of a file, at most `capacity` tokens, and whether the file was intact."""
    tokens = array("i")
    try:
        narrow(file)
        with open(file, "rb") as source:
            data = source.read(32 * capacity + 4)
    except FileNotFoundError:
        return tokens, True
    except OSError as error:
        log.warning("past outputs cannot be read: %s", error)
        return tokens, True
    tokens.frombytes(data[: len(data) // 4 * 4])
    if tokens and (min(tokens) < END or max(tokens) >= vocab_size):
        log.warning("%s is damaged and begun anew", file)
        return array("i"), False
    # A killed process may have left a partial output.
    last = next((i for i in range(len(tokens), 0, -1) if tokens[i - 1] == END), 0)
    return tokens[max(0, last - capacity) : last], 4 * last == len(data)


def _open_private(path: str, flags: int) -> int:
    """File opener: mode 0600, readable by the owner only."""
    return os.open(path, flags, 0o600)
