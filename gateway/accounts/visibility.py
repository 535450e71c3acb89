"""What a principal may see of keys, usage, agents, statistics and stored responses: the one place that decides it.

The operator sees everything, an admin of another tenant its tenant, any other key what is its owner's. Whoever answers
with such things filters them by `visible_to(principal)`, and never by a name that the caller sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.accounts.principal import Owner, Principal


class NotVisible(Exception):
    """A tenant was asked for that the principal may not see."""


@dataclass(frozen=True, slots=True)
class Visibility:
    """Everything of `owner` in `tenant`; None stands for all of them. An owner is never given without its tenant."""

    tenant: str | None
    owner: str | None

    @property
    def everything(self) -> bool:
        return self.tenant is None

    @property
    def subject(self) -> Owner | str | None:
        """An owner, the name of a tenant, or None for everything."""
        if self.tenant is None or self.owner is None:
            return self.tenant
        return self.tenant, self.owner

    def includes(self, owner: Owner) -> bool:
        return self.tenant in (None, owner[0]) and self.owner in (None, owner[1])

    def of_tenant(self, tenant: str | None) -> Visibility:
        """What is visible of this tenant; None asks for all that is visible. Raises NotVisible."""
        if tenant is None:
            return self
        if self.tenant not in (None, tenant):
            raise NotVisible(f"the tenant {tenant!r} is not visible")
        return Visibility(tenant, self.owner)


def visible_to(principal: Principal) -> Visibility:
    """What the principal may see."""
    if principal.is_operator:
        return Visibility(None, None)
    if "admin" in principal.scopes:
        return Visibility(principal.tenant, None)
    return Visibility(principal.tenant, principal.owner)
