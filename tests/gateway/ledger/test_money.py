"""Amounts of money as nano-units and as text."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger.money import MAX_NANO, to_nano, to_text


@given(st.integers(-MAX_NANO, MAX_NANO))
def test_money_survives_the_conversion_to_text(nano: int) -> None:
    assert to_nano(Decimal(to_text(nano))) == nano


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "1e30", "-1e30"])
def test_invalid_amounts_are_rejected(amount: str) -> None:
    with pytest.raises(ValueError, match="money"):
        to_nano(Decimal(amount))
