"""Incremental detokenization with stop strings: complete characters only, and no text from a stop string on.

Text that may be the beginning of a stop string is held back until it cannot be one. Where the text is cut depends
neither on how tokens were grouped nor on token borders: the match that ends first counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


@dataclass(frozen=True, slots=True)
class DecodedText:
    """New text, and how many of the tokens just added count; after a stop string, the tokens behind it do not.

    `num_settled` counts tokens, in order from the first unsettled one, whose text is complete in this text or earlier
    ones; after a stop string, those that have any text before it. A token without text settles with the text after it.
    """

    text: str
    num_tokens: int
    stopped: bool
    num_settled: int


class IncrementalDetokenizer:
    """One choice's text. Call `add` until it reports a stop; otherwise call `flush` at the end."""

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str] = (), skip_tokens: Collection[int] | None = None
    ) -> None:
        """`skip_tokens` are ids that have no text, by default all special tokens."""
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._skip_tokens = skip_tokens
        self._decoder = self._new_decoder()
        self._held = ""
        self._released = 0  # characters returned so far
        self._starts: deque[int] = deque()  # the character at which each unsettled token starts

    def add(self, tokens: Sequence[int]) -> DecodedText:
        for count, token in enumerate(tokens, start=1):
            self._starts.append(self._released + len(self._held))
            text = self._decode(token)
            if not text:
                continue
            self._held += text
            cut = self._stop_start()
            if cut is not None:
                ready, self._held = self._held[:cut], ""
                self._released += cut
                num_settled = sum(start < self._released for start in self._starts)
                return DecodedText(ready, count, stopped=True, num_settled=num_settled)
        keep = self._possible_stop()
        ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self._released += len(ready)
        return DecodedText(ready, len(tokens), stopped=False, num_settled=self._settle())

    def flush(self) -> str:
        """Returns the text held back for a stop string that did not follow, without an incomplete last character."""
        ready, self._held = self._held, ""
        return ready

    def _settle(self) -> int:
        """Removes the tokens whose text is released completely. Returns their number."""
        if self._held:
            border = max((start for start in self._starts if start <= self._released), default=0)
        else:
            border = self._released
        num_settled = 0
        while self._starts and self._starts[0] < border:
            self._starts.popleft()
            num_settled += 1
        return num_settled

    def _new_decoder(self) -> DecodeStream:
        return DecodeStream(skip_special_tokens=self._skip_tokens is None)

    def _decode(self, token: int) -> str | None:
        if self._skip_tokens and token in self._skip_tokens:
            return None
        try:
            return self._decoder.step(self._tokenizer, token)
        except Exception:
            # The decoder fails on byte sequences that no tokenizer produces from text; continue with a new one.
            self._decoder = self._new_decoder()
            return self._decoder.step(self._tokenizer, token)

    def _stop_start(self) -> int | None:
        """The position of the stop string that ends first; of two that end together, the longer one's."""
        found = [(start + len(stop), start) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _possible_stop(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        return max((_overlap(self._held, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
