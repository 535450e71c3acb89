"""Money as whole nano-units of one currency: exact in sums, fine enough for a single token.

A number of dollars crosses a border as a Decimal or as text, never as a float.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

NANO = 10**9
MAX_NANO = 2**62  # what a BigInteger column holds, with room for sums of two


def to_nano(amount: Decimal) -> int:
    """Raises ValueError for what is not a number or does not fit a column."""
    if not amount.is_finite():
        raise ValueError(f"{amount} is no amount of money")
    with localcontext() as context:
        context.prec = 60
        nano = int((amount * NANO).to_integral_value(ROUND_HALF_EVEN)) if abs(amount) < MAX_NANO else MAX_NANO + 1
    if abs(nano) > MAX_NANO:
        raise ValueError(f"{amount} is more money than can be kept")
    return nano


def to_text(nano: int) -> str:
    """As a decimal number with nine places, such as 0.000014140."""
    whole, part = divmod(abs(nano), NANO)
    return f"{'-' if nano < 0 else ''}{whole}.{part:09d}"
