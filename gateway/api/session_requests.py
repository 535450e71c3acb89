"""Builds the session requests of a prompt's choices from the request's parameters."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from msgspec.structs import replace

from gateway.accounts import Principal
from gateway.api.parameters import Parameters
from gateway.model.served_model import ServedModel
from gateway.prompt.preparation import context_length_exceeded
from gateway.sessions.request import SessionRequest

DEFAULT_MAX_TOKENS = 32768  # output tokens for a request without a limit, if the context holds as many
_SEEDS = 2**63


def build_session_requests(
    parameters: Parameters,
    model: ServedModel,
    prompt: list[int],
    principal: Principal,
    *,
    choices: int,
    param: str,
    grammar: str = "",
    prediction: Sequence[int] = (),
    alternatives: int | None = None,
) -> list[SessionRequest]:
    """One session request per choice of this prompt. `param` is the parameter that contained the prompt.

    `prompt` and `prediction` are token ids. `grammar` constrains the output (wire.Sampling). `alternatives` replaces
    the request's own (Parameters). Seeds are derived from the request's seed, or a random one, and the choice's number.
    Raises ApiError 400 when the prompt fills the context.
    """
    remaining = model.context_length - len(prompt)
    if remaining < 1:
        raise context_length_exceeded(model, f"{len(prompt)} tokens", param)
    sampling = replace(parameters.sampling(model.vocab_size), grammar=grammar)
    seed = secrets.randbelow(_SEEDS) if parameters.seed is None else parameters.seed % _SEEDS
    return [
        SessionRequest(
            model=model,
            prompt=prompt,
            sampling=replace(sampling, seed=choice_seed(seed, choice)),
            max_tokens=min(parameters.output_limit or DEFAULT_MAX_TOKENS, remaining),
            eos=() if parameters.ignore_eos else model.eos,
            owner=principal.agents_owner,
            tenant=principal.tenant,
            edge=parameters.edge,
            logprobs=parameters.alternatives if alternatives is None else alternatives,
            prediction=tuple(prediction[: model.context_length]),
            priority=principal.limits.priority or 0,
            share=principal.share,
        )
        for choice in range(choices)
    ]


def choice_seed(seed: int, choice: int) -> int:
    """Choice 0 uses the seed itself; the others derive theirs from it and their number."""
    if choice == 0:
        return seed
    digest = hashlib.sha256(f"{seed}/{choice}".encode()).digest()
    return int.from_bytes(digest[:8]) % _SEEDS
