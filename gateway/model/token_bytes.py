"""The bytes that a token stands for, whichever of the usual tokenizers it comes from.

Text is detokenised by the library (text.py); this is for answers that list tokens one by one, where parts of characters
have no text. Read from the tokenizer's decoder: byte-level alphabets, byte fallback, and marks that stand for a space.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """Call it with a token's id."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        state: dict[str, Any] = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {}
        decoders: list[dict[str, Any]] = state["decoders"] if state.get("type") == "Sequence" else [state]
        kinds = {decoder.get("type") for decoder in decoders}
        self._byte_level = "ByteLevel" in kinds
        self._fallback = "ByteFallback" in kinds
        self._spaces = [
            mark
            for decoder in decoders
            if (mark := decoder.get("replacement") or (decoder.get("pattern") or {}).get("String"))
            and decoder.get("content", " ") == " "
        ]
        added = tokenizer.get_added_tokens_decoder()
        self._added = {token: entry.content.encode() for token, entry in added.items()}

    def __call__(self, token: int) -> bytes:
        """Empty for an id that stands for nothing, as models have beyond their vocabulary."""
        if token in self._added:
            return self._added[token]
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if self._byte_level:
            return b"".join(bytes([_ALPHABET[c]]) if c in _ALPHABET else c.encode() for c in text)
        if self._fallback and (match := _FALLBACK.fullmatch(text)):
            return bytes([int(match[1], 16)])
        for mark in self._spaces:
            text = text.replace(mark, " ")
        return text.encode()


def escape_bytes(data: bytes) -> str:
    """A token as a string: its text, or its bytes spelled out where they are parts of a character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in data)


def _alphabet() -> dict[str, int]:
    """The characters by which byte-level tokenizers write bytes: printable ones themselves, others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_ALPHABET = _alphabet()
