"""How many characters of a text one token can stand for, so that a text is measured before it is tokenized.

Most tokenizers turn every character into a token or a part of one. Others drop characters or fuse any number of them: a
normalizer that strips, a pre-tokenizer that splits at white space and leaves it out, one token for a whole unknown
word. Only of parts that are known not to do so is a bound derived; docs/prompts.md has the argument.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.pre_tokenizers import ByteLevel

UNPROVEN_CHARACTERS = (
    1024  # per token, where nothing is known: words of English have 5, runs of white space some hundred
)

# A composed character has at most so many in its canonical decomposition (Unicode 16, UnicodeData.txt).
_COMPOSED = 4

_SLACK = 64  # tokens of a text's beginning that the cut at its end may add, a split word for example

_KEEPING_NORMALIZERS = ("NFD", "NFKD", "Lowercase", "Prepend", "ByteLevel")
_KEEPING_PRE_TOKENIZERS = ("ByteLevel", "Metaspace", "Digits", "UnicodeScripts")
_SPLITTING_PRE_TOKENIZERS = ("Split", "Punctuation")  # that may leave out what they split at


def characters_per_token(tokenizer: Tokenizer) -> float | None:
    """Characters of a text that one of its tokens stands for at most, None if no bound is known."""
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip for token in added):
        return None  # it takes any white space with it
    shrinking = _shrinking(_state(tokenizer.normalizer))
    if shrinking is None or not _keeps_all(_state(tokenizer.pre_tokenizer)) or not _has_all_bytes(tokenizer):
        return None
    return shrinking * max(map(len, tokenizer.get_vocab()), default=1)


def slack_of_a_cut(tokenizer: Tokenizer) -> int | None:
    """How many more tokens the beginning of a text may have than all of it; None if that may be any number.

    The beginning is one without white space at its end, which an added token or a normalizer might take away.
    """
    if _matches_patterns(_state(tokenizer.normalizer)):
        return None  # the pattern may match more than the beginning
    model = tokenizer.model
    return _SLACK + (model.max_input_chars_per_word if isinstance(model, WordPiece) else 0)


def _state(part: Any) -> Mapping[str, Any]:
    return json.loads(part.__getstate__()) if part else {"type": "Sequence"}


def _shrinking(state: Mapping[str, Any]) -> float | None:
    """By how much a normalizer makes texts shorter at most, None if by any factor."""
    match state["type"]:
        case "Sequence":
            total = 1.0
            for part in state.get("normalizers", ()):
                if (factor := _shrinking(part)) is None:
                    return None
                total *= factor
            return total
        case "NFC" | "NFKC":
            return _COMPOSED
        case "Replace" if (replaced := state["pattern"].get("String")) and state["content"]:
            return max(1.0, len(replaced) / len(state["content"]))
        case kind:
            return 1.0 if kind in _KEEPING_NORMALIZERS else None


def _matches_patterns(state: Mapping[str, Any]) -> bool:
    if state["type"] == "Sequence":
        return any(map(_matches_patterns, state.get("normalizers", ())))
    return state["type"] == "Replace" and "Regex" in state["pattern"]


def _keeps_all(state: Mapping[str, Any]) -> bool:
    """Whether a pre-tokenizer leaves out nothing of a text."""
    if state["type"] == "Sequence":
        return all(map(_keeps_all, state.get("pretokenizers", ())))
    if state["type"] in _SPLITTING_PRE_TOKENIZERS:
        return state["behavior"] != "Removed"
    return state["type"] in _KEEPING_PRE_TOKENIZERS


def _has_all_bytes(tokenizer: Tokenizer) -> bool:
    """Whether the model has a token for each byte that it may see, so that it neither drops nor fuses unknown ones."""
    model = tokenizer.model
    if not isinstance(model, BPE):
        return False
    if model.byte_fallback and all(model.token_to_id(f"<0x{byte:02X}>") is not None for byte in range(256)):
        return True
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    normalizers = _kinds(_state(tokenizer.normalizer), "normalizers")
    pre_tokenizers = _kinds(_state(tokenizer.pre_tokenizer), "pretokenizers")
    if "ByteLevel" not in pre_tokenizers and normalizers[-1:] != ["ByteLevel"]:
        return False
    return all(model.token_to_id(letter) is not None for letter in ByteLevel.alphabet())


def _kinds(state: Mapping[str, Any], parts: str) -> list[str]:
    """The types of a part's parts, or its own."""
    if state["type"] != "Sequence":
        return [state["type"]]
    return [kind for part in state.get(parts, ()) for kind in _kinds(part, parts)]
