"""A verifier's reports: offered until some gateway has recorded them, and nobody's turn is taken by what none knows."""

from __future__ import annotations

import pytest

from edgedraft.links.outbox import Outbox
from edgedraft.links.settings import VERIFIER_ENDPOINT
from edgedraft.wire import Spent
from verifier import spent_reports
from verifier.spent_reports import FIRST_PAUSE, MAX_AGE, OFFER_SECONDS, SpentReports


class Gateway:
    """Reads all that it is offered, and records what is in its ledger."""

    def __init__(self, reports: SpentReports, link: int, *ledger: str) -> None:
        self.outbox = Outbox(VERIFIER_ENDPOINT)
        self.ledger = set(ledger)
        self.offered: list[str] = []
        self._reports = reports
        reports.add_gateway(link, self.outbox)

    async def read(self) -> list[str]:
        """What was offered since the last call."""
        new: list[str] = []
        while self.outbox._messages:
            for message in await self.outbox.next_batch():
                assert isinstance(message, Spent)
                new.append(message.request)
                if message.request in self.ledger:
                    self._reports.record(message.request, message.attempt)
        self.offered += new
        return new


@pytest.fixture
def now() -> list[float]:
    return [1000.0]


@pytest.fixture
def reports(now: list[float]) -> SpentReports:
    return SpentReports(lambda: now[0])


async def test_a_report_goes_to_its_gateway_until_that_is_gone(reports: SpentReports, now: list[float]) -> None:
    own, other = Gateway(reports, 1, "a", "b"), Gateway(reports, 2)
    reports.add(1, Spent("a", 1, 1.0))
    assert (await own.read(), await other.read()) == (["a"], [])
    assert not len(reports)
    own.ledger.clear()
    reports.add(1, Spent("b", 1, 1.0))
    reports.add(1, Spent("b", 2, 1.0))
    assert await own.read() == ["b", "b"]
    now[0] += FIRST_PAUSE
    reports.offer()
    assert (await own.read(), await other.read()) == (["b", "b"], []), "it may have had no database"
    now[0] += FIRST_PAUSE
    reports.offer()
    assert await own.read() == [], "ever more rarely"
    reports.remove_gateway(1)
    assert await other.read() == ["b", "b"]
    reports.add(1, Spent("c", 1, 1.0))
    late = Gateway(reports, 3, "b", "c")
    assert await other.read() == ["c", "b", "b", "c"]
    assert await late.read() == ["b", "b", "c"]
    assert not len(reports)


async def test_reports_that_nobody_knows_take_no_turns(
    reports: SpentReports, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spent_reports, "MAX_OFFERED", 10)
    for number in range(100):
        reports.add(7, Spent(f"foreign-{number}", 1, 1.0))
    reports.add(7, Spent("known", 1, 1.0))
    gateway = Gateway(reports, 1, "known")
    rounds = 0
    while len(reports) == 101:
        await gateway.read()
        now[0] += OFFER_SECONDS
        reports.offer()
        rounds += 1
        assert rounds <= 11, "each had its turn once"
    assert max(map(gateway.offered.count, gateway.offered)) <= 2


async def test_what_is_not_recorded_for_a_day_is_dropped(reports: SpentReports, now: list[float]) -> None:
    reports.add(1, Spent("a", 1, 1.0))
    now[0] += MAX_AGE + 1
    reports.add(1, Spent("b", 1, 1.0))
    assert len(reports) == 1
    gateway = Gateway(reports, 2)
    assert await gateway.read() == ["b"]
