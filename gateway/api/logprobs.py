"""Log-probabilities in OpenAI's two shapes: one object per token for chats, one list per field for completions.

They are the target's, before temperature, penalties, bias and grammar (wire.TokenLogprobs).
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from edgedraft.wire import TokenLogprobs
from gateway.model.token_bytes import TokenBytes, escape_bytes
from gateway.output.events import TextDelta

IMPOSSIBLE = -9999.0  # OpenAI's value for a probability of 0


def chat_logprobs(deltas: Iterable[TextDelta], token_bytes: TokenBytes) -> dict[str, Any]:
    """A choice's field `logprobs` of chat completions."""
    entries = []
    for delta in deltas:
        for token, entry in zip(delta.tokens, delta.logprobs, strict=True):
            alternatives = [
                _chat_entry(token_bytes(other), logprob)
                for other, logprob in zip(entry.tokens, entry.logprobs, strict=False)
            ]
            entries.append(_chat_entry(token_bytes(token), entry.logprob) | {"top_logprobs": alternatives})
    return {"content": entries, "refusal": None}


async def all_chat_logprobs(deltas: Sequence[TextDelta], token_bytes: TokenBytes) -> dict[str, Any]:
    """As chat_logprobs for a complete output, in steps between which others run."""
    entries: list[dict[str, Any]] = []
    for delta in deltas:
        entries += chat_logprobs([delta], token_bytes)["content"]
        await asyncio.sleep(0)
    return {"content": entries, "refusal": None}


def _chat_entry(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": escape_bytes(data), "logprob": finite(logprob), "bytes": list(data)}


class LegacyLogprobs:
    """A choice's field `logprobs` of completions, chunk by chunk. Offsets are in characters of the choice's text."""

    def __init__(self, token_bytes: TokenBytes, alternatives: int) -> None:
        self._token_bytes = token_bytes
        self._alternatives = alternatives
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, tokens: Iterable[int], logprobs: Iterable[TokenLogprobs]) -> dict[str, Any]:
        """The fields of the next tokens."""
        strings, values, tops, offsets = [], [], [], []
        for token, entry in zip(tokens, logprobs, strict=True):
            data = self._token_bytes(token)
            strings.append(_legacy_string(data))
            values.append(finite(entry.logprob))
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(data))
            others = zip(entry.tokens[: self._alternatives], entry.logprobs, strict=False)
            top = {_legacy_string(self._token_bytes(other)): finite(logprob) for other, logprob in others}
            # As OpenAI specifies, the sampled token is listed even when it is not among the most likely.
            tops.append({strings[-1]: values[-1]} | top if self._alternatives else None)
        return {
            "tokens": strings,
            "token_logprobs": values,
            "top_logprobs": tops if self._alternatives else None,
            "text_offset": offsets,
        }


def _legacy_string(data: bytes) -> str:
    text = escape_bytes(data)
    return text if text.encode() == data else f"bytes:{text}"


def finite(logprob: float) -> float:
    """The value with a lower bound, because JSON has neither infinity nor NaN."""
    return logprob if logprob > IMPOSSIBLE else IMPOSSIBLE


def mean_logprob(logprobs: Iterable[TokenLogprobs]) -> float:
    """The mean log-probability per token, by which `best_of` ranks; -inf without tokens."""
    values = [entry.logprob for entry in logprobs]
    return sum(values) / len(values) if values else -float("inf")
