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


def test_a_share_is_the_same_for_a_key_and_does_not_tell_its_id() -> None:
    share = Principal("key_1", "ann", "acme", frozenset()).share
    assert share == Principal("key_1", "someone", "else", frozenset({"admin"})).share
    assert share != Principal("key_2", "ann", "acme", frozenset()).share
    assert "key_1" not in share
