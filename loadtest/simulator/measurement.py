"""What a run measures: running totals of a system, and the client's view in the measured window."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self


@dataclass
class Meters:
    """Running totals: busy seconds, verifies (of one session each), draft nodes, payload bytes on links, steps.

    `draft_seconds` are those of `server_seconds` in which the server drafts.
    """

    server_seconds: float = 0.0
    device_seconds: float = 0.0
    verifies: int = 0
    nodes: int = 0
    accepted: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    steps: int = 0
    draft_seconds: float = 0.0

    def since(self, earlier: Self) -> Self:
        return type(self)(*(getattr(self, name) - getattr(earlier, name) for name in self.__dataclass_fields__))


@dataclass
class Measurement:
    """One measured window, times in seconds."""

    seconds: float = 0.0
    tokens: int = 0
    inter_token: list[tuple[float, int]] = field(default_factory=list)  # latency per token, and how many tokens
    first_tokens: list[float] = field(default_factory=list)  # times to first token
    kinds: dict[str, tuple[int, int]] = field(default_factory=dict)  # tokens and verifies by kind of prompt
    meters: Meters = field(default_factory=Meters)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def tokens_per_verify(self) -> float:
        return self.tokens / self.meters.verifies

    @property
    def mean_inter_token(self) -> float:
        """Mean inter-token latency over all tokens."""
        total = sum(count for _, count in self.inter_token)
        return sum(seconds * count for seconds, count in self.inter_token) / max(1, total)

    def inter_token_quantile(self, share: float) -> float:
        """The inter-token latency that `share` of all tokens do not exceed."""
        total, passed = sum(count for _, count in self.inter_token), 0
        for seconds, count in sorted(self.inter_token):
            passed += count
            if passed >= share * total:
                return seconds
        return 0.0

    @property
    def median_first_token(self) -> float | None:
        """Median time to first token; None if no request began in the window."""
        return sorted(self.first_tokens)[len(self.first_tokens) // 2] if self.first_tokens else None
