"""The request of one session: model, prompt, sampling parameters and owner."""

from __future__ import annotations

from dataclasses import dataclass

from edgedraft.wire import Sampling
from gateway.accounts import Owner
from gateway.model.served_model import ServedModel


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """One choice of a request. `prompt` and `eos` are token ids; `max_tokens` counts output tokens.

    `owner` is whose agents may draft, `tenant` whose cached prompts the verifier may reuse; without `edge` no agent
    receives the session. `logprobs`, `prediction`, `trace`, `priority`, `share` and `request` are those of
    wire.Open.
    """

    model: ServedModel
    prompt: list[int]
    sampling: Sampling
    max_tokens: int
    eos: tuple[int, ...]
    owner: Owner
    tenant: str
    edge: bool
    logprobs: int = -1
    prediction: tuple[int, ...] = ()
    trace: str = ""
    priority: int = 0
    share: str = ""
    request: str = ""
