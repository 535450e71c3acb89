"""What a million tokens cost, as in SpecEdge's metric scripts: hours of the machines that were rented meanwhile.

The server is paid for from the window's beginning to its end, busy or not. A desktop is paid for as long as a stream is
with it (`rented`), or for the seconds in which it drafts (`used`), as a person is whose card would idle otherwise.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from loadtest.seed.fleet import Window

FILE = Path(__file__).parent / "prices.toml"


@dataclass(frozen=True)
class Prices:
    """Dollars an hour."""

    server_hour: float
    edge_hour: float

    @classmethod
    def read(cls, file: Path = FILE) -> Prices:
        """Raises OSError, tomllib.TOMLDecodeError or TypeError for a file that is not one of prices."""
        return cls(**tomllib.loads(file.read_text()))


@dataclass(frozen=True)
class Cost:
    """Dollars a million tokens, and the desktops' share of it."""

    rented: float
    used: float
    edge_share: float


def cost(window: Window, desktops: int, prices: Prices) -> Cost:
    millions = window.tokens / 1e6
    server = prices.server_hour * window.seconds / 3600
    rented = prices.edge_hour * desktops * window.seconds / 3600
    used = prices.edge_hour * window.meters.desktops / 3600
    return Cost((server + rented) / millions, (server + used) / millions, rented / (server + rented))
