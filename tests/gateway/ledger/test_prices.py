"""Price files, and costs rounded to the nearest nano-unit."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedraft import cli
from gateway.ledger import Prices, PricesError
from gateway.ledger.money import NANO
from gateway.ledger.prices import HOUR_NS


@given(st.integers(0, 10**18), st.integers(0, 10**15))
def test_a_cost_is_the_share_of_an_hour_to_the_nearest_nano(nanoseconds: int, price: int) -> None:
    cost = Prices(datacenter_gpu_hour=price, edge_gpu_hour=price).datacenter_cost(nanoseconds)
    assert abs(cost - Fraction(nanoseconds * price, HOUR_NS)) <= Fraction(1, 2)
    assert isinstance(cost, int)
    assert Prices(edge_gpu_hour=price).edge_cost(nanoseconds) == cost


@given(st.lists(st.integers(0, 10**13), max_size=30))
def test_the_sum_of_parts_costs_what_the_total_costs(parts: list[int]) -> None:
    prices = Prices()
    assert abs(sum(map(prices.datacenter_cost, parts)) - prices.datacenter_cost(sum(parts))) <= (len(parts) + 1) / 2


def test_a_file_of_prices(tmp_path: Path) -> None:
    assert Prices.read(None) == Prices(5_050_000_000, 350_000_000, 3_500_000_000, "USD")
    (tmp_path / "p.toml").write_text('datacenter_gpu_hour = 0.1\nedge_gpu_hour = 2\ncurrency = "EUR"\n')
    assert Prices.read(tmp_path / "p.toml") == Prices(NANO // 10, 2 * NANO, 3_500_000_000, "EUR")
    (tmp_path / "p.json").write_text('{"accepted_million": "1.25", "edge_gpu_hour": 0.3}')
    assert Prices.read(tmp_path / "p.json") == Prices(5_050_000_000, 300_000_000, 1_250_000_000, "USD")


@pytest.mark.parametrize(
    "text", ["= 1", "gpu = 1", "edge_gpu_hour = -1", "edge_gpu_hour = true", 'edge_gpu_hour = "x"', "currency = 1"]
)
def test_an_invalid_price_file_is_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(PricesError, match=r"p\.toml"):
        Prices.read(tmp_path / "p.toml")
    with pytest.raises(SystemExit) as end:
        cli.main(["gateway", "--prices", str(tmp_path / "p.toml")])
    assert "p.toml" in str(end.value.code)
