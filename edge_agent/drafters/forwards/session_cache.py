"""One session's part of the draft model's KV cache: its committed tokens, and behind them rows of its draft tree.

A row is one token behind a path of other rows, and it is computed once, whichever branch is requested next. What is
committed moves from the rows to the tokens, and the rows that contradict it are dropped. The last committed token stays
a row, so that it can be run again for its logits like any other.

A forward is scheduled here request by request (`schedule`) and counts as computed after `finish`. Which requests are in
it is decided in schedule.py. Whose KV cache it is does not matter here: torch's or ONNX Runtime's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgedraft.runtime.blocks import SequenceSlots

Slots = TypeVar("Slots", bound=SequenceSlots)


@dataclass(frozen=True, slots=True)
class ScheduledRows:
    """A session's rows of a forward, as in edgedraft.runtime.packed_model.SequenceRows.

    parents[i] is the row that row i follows, -1 for the last committed token. The first len(parents) - len(tokens) rows
    are in the KV cache already. logit_rows are the rows whose logits are wanted, 0 being that of tokens[0].
    """

    tokens: list[int]
    parents: list[int]
    logit_rows: list[int]


class SessionCache(Generic[Slots]):
    """Moves and frees the session's `slots`. `last_step`, of the caller, is the last forward that it was in."""

    def __init__(self, slots: Slots) -> None:
        self.last_step = 0
        self.slots = slots
        self._tokens: list[int] = []  # committed and computed
        # Rows: the first _num_computed are in the KV cache, the others are scheduled. Parents precede their children.
        self._row_tokens: list[int] = []
        self._row_parents: list[int] = []  # -1 stands for the last of _tokens
        self._row_of: dict[tuple[int, int], int] = {}  # by parent and token
        self._num_computed = 0
        self._repeated: list[int] = []  # computed rows that are scheduled again, for their logits
        self._completed: list[tuple[int, int]] = []  # (request, row of its last token), of the scheduled forward

    @property
    def holds_blocks(self) -> bool:
        return self.slots.holds_blocks

    @property
    def num_rows(self) -> int:
        return len(self._row_tokens) + len(self._repeated)

    @property
    def num_slots(self) -> int:
        """The slots that the session needs, those of the scheduled forward included."""
        return len(self._tokens) + self.num_rows

    def clear(self) -> None:
        """Forget everything and free the blocks."""
        self._truncate(0)

    def follow(self, context: Sequence[int], num_committed: int) -> None:
        """Keep what agrees with the committed text context[:num_committed], and unschedule everything."""
        self._unschedule()
        end = max(0, num_committed - 1)
        common = min(end, common_prefix(self._tokens, context))
        if common < len(self._tokens):
            self._truncate(common)
        accepted: list[int] = []
        row, position = -1, common
        while position < end and (child := self._row_of.get((row, context[position]))) is not None:
            accepted.append(child)
            row, position = child, position + 1
        kept: list[int] = []
        if position == end:
            last = context[end] if num_committed else None
            live: set[int] = set()
            for child, (parent, token) in enumerate(zip(self._row_parents, self._row_tokens, strict=True)):
                if parent in live or (parent == row and last in (token, None)):
                    live.add(child)
                    kept.append(child)
        self._keep(accepted, kept)

    def keep_paths(self, contexts: Iterable[Sequence[int]]) -> None:
        """Drop the rows that are on the path of none of these contexts. Nothing may be scheduled."""
        paths: set[int] = set()
        for context in contexts:
            row, _ = self._walk(context)
            while row >= 0:
                paths.add(row)
                row = self._row_parents[row]
        self._keep([], sorted(paths))

    def num_missing(self, context: Sequence[int]) -> int:
        """The rows to add to the scheduled forward for the logits behind `context`."""
        row, length = self._walk(context)
        if length < len(context):
            return len(context) - length
        return int(row < self._num_computed and row not in self._repeated)

    def reserve_slots(self, num_rows: int) -> None:
        """Allocate blocks for `num_rows` more rows. Raises OutOfBlocks and then changes nothing."""
        self.slots.reserve_slots(self.num_rows + num_rows)

    def schedule(self, request: int, context: Sequence[int], max_rows: int) -> None:
        """Schedule the first `max_rows` missing rows of a context; `request` is completed if they are all."""
        row, length = self._walk(context)
        for token in context[length : length + max_rows]:
            row = self._add_row(row, token)
        if length == len(context) and self.num_missing(context):
            self._repeated.append(row)
        if length + max_rows >= len(context):
            self._completed.append((request, row))

    def scheduled_rows(self) -> ScheduledRows:
        """The scheduled rows, with the logits of the completed requests in their order."""
        num_computed, num_new = self._num_computed, len(self._row_tokens) - self._num_computed
        return ScheduledRows(
            tokens=[*self._row_tokens[num_computed:], *(self._row_tokens[row] for row in self._repeated)],
            parents=[*self._row_parents, *(self._row_parents[row] for row in self._repeated)],
            logit_rows=[
                row - num_computed if row >= num_computed else num_new + self._repeated.index(row)
                for _, row in self._completed
            ],
        )

    def finish(self) -> list[int]:
        """Note that the scheduled rows have been computed; returns the completed requests."""
        self._num_computed = len(self._row_tokens)
        if self._repeated:
            self._repeated.clear()
            self.slots.keep_rows((), range(self._num_computed))
        completed, self._completed = self._completed, []
        return [request for request, _ in completed]

    def _walk(self, context: Sequence[int]) -> tuple[int, int]:
        """The deepest row on the path of a context (-1 without one), and how many tokens of the context are there."""
        row, length = -1, len(self._tokens)
        while length < len(context) and (child := self._row_of.get((row, context[length]))) is not None:
            row, length = child, length + 1
        return row, length

    def _add_row(self, parent: int, token: int) -> int:
        row = self._row_of[parent, token] = len(self._row_tokens)
        self._row_tokens.append(token)
        self._row_parents.append(parent)
        return row

    def _unschedule(self) -> None:
        """Drop the rows of a forward that failed."""
        for row in range(self._num_computed, len(self._row_tokens)):
            del self._row_of[self._row_parents[row], self._row_tokens[row]]
        if self.num_rows > self._num_computed:
            del self._row_tokens[self._num_computed :], self._row_parents[self._num_computed :]
            self.slots.keep_rows((), range(self._num_computed))
        self._repeated.clear()
        self._completed.clear()

    def _truncate(self, length: int) -> None:
        self.slots.truncate(length)
        del self._tokens[length:]
        self._set_rows([], [])

    def _keep(self, accepted: Sequence[int], kept: Sequence[int]) -> None:
        if not accepted and len(kept) == len(self._row_tokens):
            return
        self.slots.keep_rows(accepted, kept)
        self._tokens += [self._row_tokens[row] for row in accepted]
        place = {row: i for i, row in enumerate(kept)}
        parents = [place.get(self._row_parents[row], -1) for row in kept]
        self._set_rows([self._row_tokens[row] for row in kept], parents)

    def _set_rows(self, tokens: list[int], parents: list[int]) -> None:
        self._row_tokens, self._row_parents, self._num_computed = tokens, parents, len(tokens)
        self._row_of = {key: row for row, key in enumerate(zip(parents, tokens, strict=True))}


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of leading tokens that `a` and `b` share, by binary search over slices, which compare fast in C."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
