"""A row of the ledger in two parts: what is known when a request begins, and what is known when it ends.

Timestamps are milliseconds since the epoch, durations nanoseconds, money nano-units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.records.generation import Outcome
from gateway.records.speculation_stats import Mode


@dataclass(frozen=True, slots=True)
class Started:
    """First part of a row. `request_id` is the x-request-id, which clients may repeat; `id` is unique."""

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
class Progress:
    """What a running request has come to: output tokens, and verifier time by attempt in nanoseconds."""

    output_tokens: int = 0
    counted: Mapping[int, int] = field(default_factory=dict[int, int])


@dataclass(frozen=True, slots=True)
class Ended:
    """Second part of a row. `agent` is the one with the most accepted tokens, None if no agent drafted.

    `attempts` says how much of `verifier_ns` each attempt's commits carried (attempts.encode_counted). Until this is
    written, a row is `running`, or `unfinished` if its gateway was lost.
    """

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
    agent_device: str | None
    agent_ns: int | None
    verifier_cost: int
    edge_cost: int
    baseline_cost: int
    credit: int
    attempts: str


def column_values(part: Started | Ended) -> dict[str, Any]:
    """The part's values by column. dataclasses.asdict would copy each, which costs a twentieth of a request."""
    return {name: getattr(part, name) for name in part.__dataclass_fields__}
