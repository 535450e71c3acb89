"""Who asks, and how much they may."""

from __future__ import annotations

from dataclasses import dataclass

OPERATOR_TENANT = "default"
SCOPES = frozenset({"inference", "edge", "admin"})

# Tenant and owner: an owner's name means nothing outside the tenant.
Owner = tuple[str, str]


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """A key's own limits; None leaves one to the gateway's settings. Spend is nano-units of money a calendar month.

    Where a verifier has no room, requests of higher `priority` go first (wire.Open); None is 0.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    monthly_spend: int | None = None
    priority: int | None = None

    def with_defaults(self, defaults: KeyLimits) -> KeyLimits:
        """These, and where there is none of their own, the defaults."""

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
    """Who asks: `owner` has agents, `tenant` pays, `scopes` say what is allowed, `limits` how much."""

    key_id: str
    owner: str
    tenant: str
    scopes: frozenset[str]
    limits: KeyLimits = NO_LIMITS

    @property
    def is_operator(self) -> bool:
        """Whether it may see and do everything: an admin of the tenant that is there from the first."""
        return "admin" in self.scopes and self.tenant == OPERATOR_TENANT

    @property
    def agents_owner(self) -> Owner:
        """Whose agents may see this principal's prompts."""
        return self.tenant, self.owner
