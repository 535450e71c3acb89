"""A row of the ledger, in two halves: what is known when a request begins, and what when it ends.

Moments are milliseconds since the epoch, times nanoseconds, money nano-units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.sessions.speculation_stats import Mode

# refused: no verifier took it. cancelled: the client went away, or the gateway ended first; tokens so far are counted.
# failed: it broke off. A row is `running` until it ends and `unfinished` if its gateway was lost before.
Outcome = Literal["finished", "cancelled", "failed", "refused"]


@dataclass(frozen=True, slots=True)
class Started:
    """`request_id` is the x-request-id, which clients may repeat; `id` is the ledger's own and unique."""

    id: str
    request_id: str
    key_id: str
    owner: str
    tenant: str
    model: str
    endpoint: str
    stream: bool
    started: int
    prompt_tokens: int
    choices: int


@dataclass(frozen=True, slots=True)
class Ended:
    """`agent` is the one that drafted, empty if none did; of several the one with most accepted tokens."""

    outcome: Outcome
    ended: int
    first_token: int | None
    cached_tokens: int
    output_tokens: int
    drafted: int
    accepted: int
    verifier_accepted: int
    mode: Mode
    verifier_ns: int
    baseline_ns: int
    agent: str | None
    agent_tenant: str | None
    agent_owner: str | None
    agent_ns: int | None
    verifier_cost: int
    edge_cost: int
    baseline_cost: int
    credit: int
