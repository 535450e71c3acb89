"""The price table: costs of compute time and the credit per accepted token, in exact integer arithmetic.

Default prices are those of SpecEdge (arXiv 2505.17052): an A100-80 at $5.05 per hour, an RTX 4090 at $0.35. The credit
of $3.50 per million accepted tokens is what that desktop costs at 28 accepted tokens per second. Times are nanoseconds,
money is nano-units.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from gateway.ledger.money import to_nano

HOUR_NS = 3600 * 10**9
MILLION = 10**6


class PricesError(Exception):
    """The price table is invalid; the message says why."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in nano-units. `datacenter_gpu_hour` is for all GPUs of one verifier together."""

    datacenter_gpu_hour: int = to_nano(Decimal("5.05"))
    edge_gpu_hour: int = to_nano(Decimal("0.35"))
    accepted_million: int = to_nano(Decimal("3.50"))
    currency: str = "USD"

    def datacenter_cost(self, nanoseconds: int) -> int:
        return _prorate(nanoseconds, self.datacenter_gpu_hour, HOUR_NS)

    def edge_cost(self, nanoseconds: int) -> int:
        return _prorate(nanoseconds, self.edge_gpu_hour, HOUR_NS)

    def credit(self, accepted: int) -> int:
        """Credit of an agent's owner for this number of accepted tokens."""
        return _prorate(accepted, self.accepted_million, MILLION)

    @classmethod
    def read(cls, path: Path | None) -> Prices:
        """Reads a TOML or JSON file with the fields of this class, in units of money. None gives the defaults.

        Raises PricesError.
        """
        if path is None:
            return cls()
        try:
            text = path.read_text()
            # Decimal, because a float cannot represent 0.1.
            table = (
                json.loads(text, parse_float=Decimal)
                if path.suffix == ".json"
                else tomllib.loads(text, parse_float=Decimal)
            )
        except (OSError, ValueError) as error:
            raise PricesError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
        if not isinstance(table, dict):
            raise PricesError(f"{path}: it must be a table of prices")
        if unknown := set(table) - set(cls.__dataclass_fields__):
            raise PricesError(f"{path}: {', '.join(sorted(unknown))} is no price")
        return cls(**{name: _parse_price(path, name, value) for name, value in table.items()})


def _parse_price(path: Path, name: str, value: Any) -> Any:
    if name == "currency":
        if not isinstance(value, str) or not 1 <= len(value) <= 16:
            raise PricesError(f"{path}: currency must be a short text")
        return value
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise PricesError(f"{path}: {name} must be a number")
    try:
        nano = to_nano(Decimal(value))
    except (ValueError, ArithmeticError) as error:
        raise PricesError(f"{path}: {name} must be a number: {error}") from error
    if nano < 0:
        raise PricesError(f"{path}: {name} must not be negative")
    return nano


def _prorate(amount: int, price: int, unit: int) -> int:
    """amount * price / unit, rounded half up. `amount` is not negative."""
    return (2 * amount * price + unit) // (2 * unit)
