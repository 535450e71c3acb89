"""What repetition, frequency and presence penalties and logit_bias do to logits, before anything else acts on them.

Bias first, then the repetition penalty over prompt and output (CTRL, arXiv 1909.05858: positive logits are divided,
negative ones multiplied), then frequency and presence over the output (OpenAI's API reference, Chat Completions). All
but the bias depend on the path, so each place of a draft tree has them of its own text. This file needs torch.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from edgedraft.wire import Sampling


def penalises(sampling: Sampling) -> bool:
    """Whether choices depend on which tokens came before."""
    return bool(sampling.frequency_penalty or sampling.presence_penalty or sampling.repetition_penalty != 1)


class History:
    """The tokens of a text, and how often its output has each of them. Grows in constant time a token."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], output: Iterable[int] = ()) -> None:
        """Of the prompt only the repetition penalty knows."""
        self._tokens = array("q", dict.fromkeys(prompt) if sampling.repetition_penalty != 1 else ())
        self._counts = array("f", bytes(4 * len(self._tokens)))
        self._place = {token: place for place, token in enumerate(self._tokens)}
        self.extend(output)

    def extend(self, output: Iterable[int]) -> None:
        """These tokens follow."""
        for token in output:
            place = self._place.setdefault(token, len(self._tokens))
            if place == len(self._tokens):
                self._tokens.append(token)
                self._counts.append(0.0)
            self._counts[place] += 1

    @contextmanager
    def ahead(self, path: Sequence[int]) -> Iterator[History]:
        """The same text with a path behind it, for as long as the context lasts."""
        before = len(self._tokens)
        self.extend(path)
        try:
            yield self
        finally:
            for token in path:
                self._counts[self._place[token]] -= 1
            for token in self._tokens[before:]:
                del self._place[token]
            del self._tokens[before:], self._counts[before:]

    def columns(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens, int64 [n], and their counts in the output, float32 [n]."""
        tokens, counts = np.array(self._tokens, dtype=np.int64), np.array(self._counts, dtype=np.float32)
        return torch.from_numpy(tokens).to(device), torch.from_numpy(counts).to(device)


def biased(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """A float32 copy of logits [rows, vocab] with logit_bias added."""
    z = logits.to(torch.float32, copy=True)
    if sampling.logit_bias:
        tokens = torch.tensor(list(sampling.logit_bias), device=z.device)
        z[:, tokens] += torch.tensor(list(sampling.logit_bias.values()), dtype=torch.float32, device=z.device)
    return z


def adjusted(logits: torch.Tensor, sampling: Sampling, history: History | None) -> torch.Tensor:
    """A float32 copy of logits [rows, vocab], all at places behind the text of `history`, with bias and penalties."""
    z = biased(logits, sampling)
    if history is None:
        return z
    tokens, counts = history.columns(z.device)
    seen = z[:, tokens]
    if sampling.repetition_penalty != 1:
        seen = torch.where(seen > 0, seen / sampling.repetition_penalty, seen * sampling.repetition_penalty)
    seen = seen - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)
    z[:, tokens] = seen
    return z
