"""Cost per million tokens, as in SpecEdge's metric scripts: hours of the machines rented meanwhile.

The server is paid for during the whole window, busy or not. A device is paid for while it has a stream (`rented`), or
only for the seconds in which it drafts (`used`), for a personal machine that would be idle otherwise.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from loadtest.simulator.measurement import Measurement

FILE = Path(__file__).parent / "prices.toml"


@dataclass(frozen=True)
class Prices:
    """US dollars per hour."""

    server_hour: float
    edge_hour: float

    @classmethod
    def read(cls, file: Path = FILE) -> Prices:
        """Raises OSError, tomllib.TOMLDecodeError, or TypeError for a file with other fields."""
        return cls(**tomllib.loads(file.read_text()))


@dataclass(frozen=True)
class TokenCost:
    """US dollars per million tokens, and the devices' share of the rented cost."""

    rented: float
    used: float
    edge_share: float


def token_cost(measured: Measurement, devices: int, prices: Prices) -> TokenCost:
    millions = measured.tokens / 1e6
    server = prices.server_hour * measured.seconds / 3600
    rented = prices.edge_hour * devices * measured.seconds / 3600
    used = prices.edge_hour * measured.meters.device_seconds / 3600
    return TokenCost((server + rented) / millions, (server + used) / millions, rented / (server + rented))
