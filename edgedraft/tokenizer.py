"""Tokenizer fingerprints: two models may speculate together only if every token id means the same text to both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def fingerprint(tokenizer_json: str | bytes) -> str:
    """SHA-256 over the (id, token) pairs of a Hugging Face tokenizer.json, added tokens included.

    Formatting, merges order and post-processing do not enter: only what an id stands for crosses a link.
    Raises ValueError when the text is no tokenizer.json.
    """
    try:
        document: Any = json.loads(tokenizer_json)
        model, added = document["model"], document.get("added_tokens") or []
        vocab = model["vocab"]
        pairs = (
            {int(i): token for token, i in vocab.items()}
            if isinstance(vocab, dict)
            else dict(enumerate(t for t, _ in vocab))
        )
        pairs |= {int(entry["id"]): entry["content"] for entry in added}
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a tokenizer.json: {error}") from error
    return fingerprint_of(pairs)


def fingerprint_of(vocabulary: Mapping[int, str]) -> str:
    """The same for a vocabulary in hand: what every id stands for."""
    canonical = json.dumps(sorted(vocabulary.items()), ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
