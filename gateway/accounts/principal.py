"""The principal behind an API key: owner, tenant, scopes and limits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

OPERATOR_TENANT = "default"
SCOPES = frozenset({"inference", "edge", "admin"})

# (tenant, owner): owner names are unique within a tenant only.
Owner = tuple[str, str]


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Limits of one key; None stands for the gateway's default. `monthly_spend` is in nano-units of money.

    When verifiers are full, requests of higher `priority` are admitted first (wire.Open); None is 0.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    monthly_spend: int | None = None
    priority: int | None = None

    def with_defaults(self, defaults: KeyLimits) -> KeyLimits:
        """Returns these limits, with `defaults` where they are None."""

        def first(own: int | None, default: int | None) -> int | None:
            return default if own is None else own

        return KeyLimits(
            first(self.requests_per_minute, defaults.requests_per_minute),
            first(self.tokens_per_minute, defaults.tokens_per_minute),
            first(self.concurrent, defaults.concurrent),
            first(self.monthly_spend, defaults.monthly_spend),
            first(self.priority, defaults.priority),
        )


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: `owner` has the agents, `tenant` is billed, `scopes` are the permissions."""

    key_id: str
    owner: str
    tenant: str
    scopes: frozenset[str]
    limits: KeyLimits = NO_LIMITS

    @property
    def is_operator(self) -> bool:
        """Whether this is an admin of OPERATOR_TENANT, who may see and change everything."""
        return "admin" in self.scopes and self.tenant == OPERATOR_TENANT

    @property
    def share(self) -> str:
        """An opaque name of the key, the same at every gateway, that does not tell the key's id (wire.Open)."""
        return hashlib.sha256(f"share of {self.key_id}".encode()).hexdigest()[:32]

    @property
    def agents_owner(self) -> Owner:
        """The owner whose agents may draft for this principal."""
        return self.tenant, self.owner
