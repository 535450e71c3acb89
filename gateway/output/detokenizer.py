"""From token ids to the text that a client may see: never half a character, nothing past a stop string.

Text that might be the beginning of a stop string is held back until it is known to be none. Where a stop is cut does
not depend on how tokens were grouped or where their borders lie: the match that ends first counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is ready, and how many of the pushed tokens count; after a stop, those behind it do not.

    `settled` is how many tokens, from the first one that was not settled before, have all of their text in this piece
    or an earlier one; after a stop, those that have any. A token without text goes with the text that follows it.
    """

    text: str
    tokens: int
    stopped: bool
    settled: int


class TextStream:
    """One choice's text. Push tokens until a piece is stopped; at the end flush, unless it was."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), silent: Collection[int] | None = None) -> None:
        """`silent` are the tokens that have no text; by default all special ones."""
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._silent = silent
        self._decoder = self._new_decoder()
        self._held = ""
        self._released = 0  # characters that were ready so far
        self._begins: deque[int] = deque()  # the character at which each unsettled token begins

    def push(self, tokens: Sequence[int]) -> Piece:
        for count, token in enumerate(tokens, start=1):
            self._begins.append(self._released + len(self._held))
            text = self._decode(token)
            if not text:
                continue
            self._held += text
            cut = self._stop_start()
            if cut is not None:
                ready, self._held = self._held[:cut], ""
                self._released += cut
                settled = sum(begin < self._released for begin in self._begins)
                return Piece(ready, count, stopped=True, settled=settled)
        keep = self._unsettled()
        ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self._released += len(ready)
        return Piece(ready, len(tokens), stopped=False, settled=self._settle())

    def flush(self) -> str:
        """What was held back and turned out to be no stop. A character without its last bytes is left out."""
        ready, self._held = self._held, ""
        return ready

    def _settle(self) -> int:
        """Take out the tokens all of whose text is released, and tell how many they are."""
        if self._held:
            border = max((begin for begin in self._begins if begin <= self._released), default=0)
        else:
            border = self._released
        settled = 0
        while self._begins and self._begins[0] < border:
            self._begins.popleft()
            settled += 1
        return settled

    def _new_decoder(self) -> DecodeStream:
        return DecodeStream(skip_special_tokens=self._silent is None)

    def _decode(self, token: int) -> str | None:
        if self._silent and token in self._silent:
            return None
        try:
            return self._decoder.step(self._tokenizer, token)
        except Exception:
            # The decoder gives up on byte sequences that no tokenizer produces from text; begin again after them.
            self._decoder = self._new_decoder()
            return self._decoder.step(self._tokenizer, token)

    def _stop_start(self) -> int | None:
        """Where the stop string that ends first begins; of two that end together, the longer."""
        found = [(start + len(stop), start) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _unsettled(self) -> int:
        """How many characters at the end might be the beginning of a stop string."""
        return max((_overlap(self._held, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
