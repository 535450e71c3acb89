"""A drafter over a tiny random Llama, and the requests that tests send it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from edge_agent.drafters.interface import DraftRequest, Proposal
from edge_agent.drafters.proposals.from_logits import MAX_CANDIDATES
from edge_agent.drafters.pytorch.drafter import ModelDrafter
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.sampling.sampler import propose_tokens
from edgedraft.wire import Sampling
from tests.support.tiny_llama import VOCAB, plain_tiny_llama, tiny_llama

GREEDY = Sampling(temperature=0.0)
WARM = Sampling(temperature=0.8, top_p=0.95, seed=7)


def tiny_drafter(seed: int = 0, kv_tokens: int = 2048, vocab_size: int = VOCAB, **options: Any) -> ModelDrafter:
    model = PackedModel(tiny_llama(seed, vocab_size=options.pop("own_vocab", VOCAB)), kv_tokens)
    return ModelDrafter(model, options.pop("context_length", 512), vocab_size, **options)


def point(
    prompt: Sequence[int], output: Sequence[int] = (), session: int = 1, sampling: Sampling = GREEDY
) -> DraftRequest:
    """A point at the end of prompt and output, all of it settled."""
    context = [*prompt, *output]
    return DraftRequest(session, context, len(context), len(output), sampling)


def complete(drafter: ModelDrafter, asked: DraftRequest) -> Proposal:
    """Ask until the context has been run."""
    for _ in range(100):
        [proposal] = drafter.propose([asked])
        if proposal.complete:
            return proposal
    raise AssertionError("never complete")


@torch.inference_mode()
def fresh(text: Sequence[int], sampling: Sampling = GREEDY, index: int = 0) -> tuple[list[int], list[float]]:
    """The most likely tokens after `text` by one plain forward."""
    logits = plain_tiny_llama()(torch.tensor([text])).logits[0, -1:]
    tokens, probabilities = propose_tokens(logits, sampling, [index], MAX_CANDIDATES)
    return tokens[0].tolist(), probabilities[0].tolist()


class Forwards:
    """Records a drafter's forwards: the rows of each of their sessions."""

    def __init__(self, drafter: ModelDrafter, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[list[int]] = []
        inner = drafter._model.forward

        def forward(jobs: Any) -> torch.Tensor:
            self.rows.append([len(job.tokens) for job in jobs])
            return inner(jobs)

        monkeypatch.setattr(drafter._model, "forward", forward)
