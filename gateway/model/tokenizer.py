"""Loads the tokenizer of a verifier's model card."""

from __future__ import annotations

import threading
import zlib
from hashlib import sha256
from weakref import WeakValueDictionary

from tokenizers import Tokenizer

MAX_TOKENIZER_BYTES = 1 << 27  # bytes of tokenizer.json, unpacked; the largest common ones have a quarter of that

_shared: WeakValueDictionary[bytes, Tokenizer] = WeakValueDictionary()  # by the digest of what they were loaded from
_sharing = threading.Lock()


class TokenizerError(ValueError):
    """The tokenizer cannot be read."""


def load_tokenizer(compressed: bytes) -> Tokenizer:
    """Takes up to a second for a large vocabulary. Raises TokenizerError."""
    try:
        tokenizer = Tokenizer.from_str(_decompress(compressed).decode())
    except Exception as error:  # the library raises bare Exceptions
        raise TokenizerError(f"its tokenizer cannot be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_shared_tokenizer(compressed: bytes) -> Tokenizer:
    """As load_tokenizer, once for all models that have it now: the sizes of one family do. It must not be changed."""
    digest = sha256(compressed).digest()
    with _sharing:
        if (tokenizer := _shared.get(digest)) is None:
            tokenizer = _shared[digest] = load_tokenizer(compressed)
        return tokenizer


def _decompress(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, MAX_TOKENIZER_BYTES)
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError(f"more than {MAX_TOKENIZER_BYTES} bytes, or cut short")
    return text
