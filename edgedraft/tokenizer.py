"""Tokenizer fingerprints: a draft model fits a target only if every token id stands for the same text in both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def fingerprint(tokenizer_json: str | bytes) -> str:
    """SHA-256 over the (id, token) pairs of a Hugging Face tokenizer.json, added tokens included.

    Formatting, merges and pre- and post-processing do not matter, since only token ids are exchanged. Raises ValueError
    for anything that is not a tokenizer.json.
    """
    return fingerprint_vocabulary(read_vocabulary(tokenizer_json))


def read_vocabulary(tokenizer_json: str | bytes) -> dict[int, str]:
    """The tokens of a Hugging Face tokenizer.json by id, added tokens included.

    Raises ValueError for anything that is not a tokenizer.json.
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
    return pairs


def fingerprint_vocabulary(vocabulary: Mapping[int, str]) -> str:
    """The fingerprint of a vocabulary that maps token ids to tokens."""
    canonical = json.dumps(sorted(vocabulary.items()), ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
