"""Money as integers in nano-units of one currency: sums are exact, and a single token is representable.

At the boundaries an amount is a Decimal or decimal text, never a float.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

NANO = 10**9
MAX_NANO = 2**62  # fits a BigInteger column, and so does the sum of two


def to_nano(amount: Decimal) -> int:
    """Converts an amount to nano-units. Raises ValueError if it is not finite or exceeds MAX_NANO."""
    if not amount.is_finite():
        raise ValueError(f"{amount} is no amount of money")
    with localcontext() as context:
        context.prec = 60
        nano = int((amount * NANO).to_integral_value(ROUND_HALF_EVEN)) if abs(amount) < MAX_NANO else MAX_NANO + 1
    if abs(nano) > MAX_NANO:
        raise ValueError(f"{amount} is more money than can be kept")
    return nano


def to_text(nano: int) -> str:
    """Decimal text with nine places, such as 0.000014140."""
    units, fraction = divmod(abs(nano), NANO)
    return f"{'-' if nano < 0 else ''}{units}.{fraction:09d}"
