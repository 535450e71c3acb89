"""Limits with defaults, and who is the operator."""

from __future__ import annotations

import pytest

from gateway.accounts import KeyLimits, Principal


def test_defaults_fill_only_limits_that_are_not_set() -> None:
    limits = KeyLimits(requests_per_minute=5, monthly_spend=0)
    assert limits.with_defaults(KeyLimits(1, 2, 3, 4, 5)) == KeyLimits(5, 2, 3, 0, 5)
    assert limits.with_defaults(KeyLimits()) == limits


@pytest.mark.parametrize(
    ("tenant", "scopes", "operator"),
    [("default", {"admin"}, True), ("acme", {"admin"}, False), ("default", {"inference", "edge"}, False)],
)
def test_an_admin_of_the_default_tenant_is_the_operator(tenant: str, scopes: set[str], operator: bool) -> None:
    principal = Principal("key_1", "ann", tenant, frozenset(scopes))
    assert principal.is_operator == operator
    assert principal.agents_owner == (tenant, "ann")
