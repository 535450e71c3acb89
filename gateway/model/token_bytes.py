"""Finds the bytes of single tokens, for the common kinds of tokenizers.

Log-probabilities list tokens one by one, and a token may be part of a character. gateway/output/detokenizer.py decodes
text. The kind is read from the tokenizer's decoder: byte-level alphabet, byte fallback, characters that replace spaces.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """A callable from a token's id to its bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        state: dict[str, Any] = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {}
        decoders: list[dict[str, Any]] = state["decoders"] if state.get("type") == "Sequence" else [state]
        kinds = {decoder.get("type") for decoder in decoders}
        self._byte_level = "ByteLevel" in kinds
        self._fallback = "ByteFallback" in kinds
        self._spaces = [
            space
            for decoder in decoders
            if (space := decoder.get("replacement") or (decoder.get("pattern") or {}).get("String"))
            and decoder.get("content", " ") == " "
        ]
        added = tokenizer.get_added_tokens_decoder()
        self._added = {token: entry.content.encode() for token, entry in added.items()}

    def __call__(self, token: int) -> bytes:
        """Returns b"" for an id without a token, which models have beyond their vocabulary."""
        if token in self._added:
            return self._added[token]
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if self._byte_level:
            return b"".join(bytes([_ALPHABET[c]]) if c in _ALPHABET else c.encode() for c in text)
        if self._fallback and (match := _FALLBACK.fullmatch(text)):
            return bytes([int(match[1], 16)])
        for space in self._spaces:
            text = text.replace(space, " ")
        return text.encode()


def escape_bytes(data: bytes) -> str:
    """Returns a token's text, or its bytes as \\x escapes where they are part of a character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in data)


def _alphabet() -> dict[str, int]:
    """Returns GPT-2's characters for bytes: printable bytes are themselves, the others are U+0100 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_ALPHABET = _alphabet()
