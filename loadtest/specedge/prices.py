"""Cost per million tokens, as in SpecEdge's metric scripts: hours of the machines rented meanwhile.

The server is paid for during the whole window, busy or not. A device is paid for while it has a stream (`rented`), only
for the seconds in which it drafts (`used`), or is the user's own and costs the electricity of these seconds (`owned`).
"""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.settings import BenchSettings
from loadtest.simulator.measurement import Measurement


@dataclass(frozen=True)
class Prices:
    """US dollars per hour of server and device, a drafting device's watts, and dollars per kWh."""

    server_hour: float
    edge_hour: float
    edge_watts: float
    kwh: float

    @classmethod
    def of(cls, settings: BenchSettings) -> Prices:
        return cls(settings.server_hour, settings.edge_hour, settings.edge_watts, settings.kwh_price)

    @property
    def electricity_hour(self) -> float:
        """US dollars for an hour of drafting on the user's own device."""
        return self.kwh * self.edge_watts / 1e3


@dataclass(frozen=True)
class TokenCost:
    """US dollars per million tokens, and the devices' share of the rented cost."""

    rented: float
    used: float
    owned: float
    edge_share: float


def token_cost(measured: Measurement, devices: int, prices: Prices) -> TokenCost:
    """`devices` is how many take part."""
    millions = measured.tokens / 1e6
    server = prices.server_hour * measured.seconds / 3600
    rented = prices.edge_hour * devices * measured.seconds / 3600
    drafting_hours = measured.meters.device_seconds / 3600
    used, owned = prices.edge_hour * drafting_hours, prices.electricity_hour * drafting_hours
    return TokenCost(
        (server + rented) / millions,
        (server + used) / millions,
        (server + owned) / millions,
        rented / (server + rented),
    )
