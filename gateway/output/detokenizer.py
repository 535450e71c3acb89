"""Incremental detokenization: complete characters only, token by token."""

from __future__ import annotations

from collections.abc import Collection

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class IncrementalDetokenizer:
    """One choice's text."""

    def __init__(self, tokenizer: Tokenizer, skip_tokens: Collection[int] | None = None) -> None:
        """`skip_tokens` are ids that have no text, by default all special tokens."""
        self._tokenizer = tokenizer
        self._skip_tokens = skip_tokens
        self._decoder = self._new_decoder()

    def add(self, token: int) -> str:
        """Returns the text that this token completes; empty for a special token or within a character."""
        if self._skip_tokens and token in self._skip_tokens:
            return ""
        try:
            return self._decoder.step(self._tokenizer, token) or ""
        except Exception:
            # The decoder fails on byte sequences that no tokenizer produces from text; continue with a new one.
            self._decoder = self._new_decoder()
            return self._decoder.step(self._tokenizer, token) or ""

    def _new_decoder(self) -> DecodeStream:
        return DecodeStream(skip_special_tokens=self._skip_tokens is None)
