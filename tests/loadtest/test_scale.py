"""bench scale: costs found again, cores shared, a cell and a crowd that add up, and what gives way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from edge_agent.attach.connection import COALESCE_SECONDS
from edgedraft.wire import Draft, Sampling
from loadtest.scale import measure as measuring
from loadtest.scale.cell import FREE, Cell, Parts, Shape
from loadtest.scale.costs import NAMES, Costs, Counts, Run, error, fit
from loadtest.scale.crowd import Crowd
from loadtest.scale.frames import Frames
from loadtest.scale.live import LoopClock
from loadtest.scale.measure import Measured, Plan, StoreUse, measure
from loadtest.scale.service import AIM, Assumed, Stream, busy, commits_a_frame, service, sessions_of_a_verifier
from loadtest.scale.sizes import sizes, steps
from loadtest.scale.stores import Asked, stores
from loadtest.scale.thread import Thread
from loadtest.seed.chats import Chat
from loadtest.seed.clock import Clock
from loadtest.seed.drafts import Drafts
from loadtest.seed.fleet import Load, Window, run
from loadtest.seed.profiles import Device, Link
from loadtest.seed.target import Target, played
from loadtest.trace import load
from verifier.scheduling.step_costs import StepCosts

STEP = 0.03
COSTS = Costs(1e-3, 5e-5, 3e-3, 2e-4, 1e-4, 5e-5, 4e-5, 1e-5, 6e-5, 3e-5, 1e-5, 1e-5)
STREAM = Stream(tokens=1.5, nodes=1.0, drafts=2.0)
ASSUMED = Assumed(share=0.02, pace=50.0)

USE = StoreUse(
    Asked(1, 1e-4, 0.3, 1e-3), Asked(4, 2e-4, 1.2, 4e-4), Asked(0, 0, 0.2, 1e-4), Asked(1, 1e-4, 1, 2e-4), 4, 2
)
MEASURED = Measured(COSTS, COSTS, 0.0, 40.0, 150.0, USE)


@pytest.fixture(scope="module")
def chats() -> list[Chat]:
    greedy = Sampling(temperature=0)
    return [Chat(i, "", "", tuple(c.prompt), greedy, 12, tuple(c.text[:12])) for i, c in enumerate(load()[:4])]


@pytest.fixture(scope="module")
def drafts() -> Drafts:
    return Drafts(49152, threads=1, kv_tokens=4096)


def cell_of(chats: Sequence[Chat], drafts: Drafts, shape: Shape, costs: Costs) -> Cell:
    def target() -> Target:
        return played(chats, lambda rows: STEP + 0.001 * rows, (), cached=True)

    curve = StepCosts()
    for rows in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        curve.record(rows, STEP + 0.001 * rows)
    return Cell(shape, Parts(target, curve, costs, (Device("desktop", 0.002, "made up"), Link("near", 0.01), drafts)))


def ran(cell: Cell, chats: Sequence[Chat], streams: int = 4) -> Window:
    return run(cell, chats, Load(streams, tokens=120, warm=30), seed=0)


def test_costs_are_found_again_from_runs_that_differ() -> None:
    dice = random.Random(1)
    runs: list[Run] = []
    for number in range(40):
        counts = Counts(**{name: dice.choice((0, dice.randrange(1, 1000))) for name in NAMES})
        runs.append(Run(str(number), counts, COSTS.seconds(counts), 2 * COSTS.seconds(counts)))
    found = fit(runs)
    assert [getattr(found, name) for name in NAMES] == pytest.approx([getattr(COSTS, name) for name in NAMES], rel=1e-3)
    assert fit(runs, "load").commit == pytest.approx(2 * COSTS.commit, rel=1e-3)
    assert error(found, runs) < 1e-3
    twice = Costs(*(2 * getattr(found, name) for name in NAMES))
    assert error(twice, runs) == pytest.approx(1.0)


def test_what_was_never_there_costs_nothing() -> None:
    found = fit([Run("", Counts(second=10), 0.5, 0.0), Run("", Counts(second=10, commit=100), 1.5, 0.0)])
    assert (found.second, found.commit, found.agent) == pytest.approx((0.05, 0.01, 0.0))


def test_a_thread_does_one_thing_after_the_other() -> None:
    clock, done = Clock(), list[tuple[str, float]]()
    thread = Thread(clock, speed=0.5)
    for name, seconds in (("long", 2.0), ("short", 0.5), ("none", 0.0)):
        thread.do(seconds, lambda name=name: done.append((name, clock.now)))
    clock.run(lambda: len(done) == 3)
    assert done == [("long", 4.0), ("short", 5.0), ("none", 5.0)]
    assert (thread.busy, thread.waited, thread.wakes) == (2.5, [0.0, 4.0, 5.0], 1)


def test_a_thread_pays_for_beginning_from_rest() -> None:
    clock, done = Clock(), list[float]()
    thread = Thread(clock, wake=0.5)
    for at in (0.0, 1.0, 5.0):
        clock.at(at, lambda: thread.do(1.0, lambda: done.append(clock.now)))
    clock.run(lambda: False)
    assert done == [1.5, 2.5, 6.5]
    assert (thread.busy, thread.wakes) == (4.0, 2)


def test_a_cells_gateways_are_charged_for_what_passes(chats: list[Chat], drafts: Drafts) -> None:
    """And every token is held to the recorded text by the run itself."""
    cell = cell_of(chats, drafts, Shape(2, 2, edge=True), COSTS)
    ran(cell, chats)
    meters = cell.meters
    assert min(meters.frames, meters.told, meters.drafts, meters.requests) > 0
    assert meters.frames <= meters.verifies
    parts = (
        COSTS.wake * meters.wakes
        + COSTS.request * meters.requests
        + COSTS.frame * meters.frames
        + COSTS.commit * meters.verifies
    )
    rest = meters.gateway - parts
    of_drafts = COSTS.draft * meters.drafts + COSTS.another * meters.more
    assert 0 < rest <= (COSTS.told * meters.verifies + of_drafts) * 1.001


def test_without_desktops_nobody_is_told(chats: list[Chat], drafts: Drafts) -> None:
    cell = cell_of(chats, drafts, Shape(1, 1, edge=False), COSTS)
    window = ran(cell, chats)
    assert (cell.meters.told, cell.meters.drafts) == (0, 0)
    assert window.tokens >= 120


def test_a_lent_desktop_costs_both_gateways(chats: list[Chat], drafts: Drafts) -> None:
    only_lent = replace(FREE, lent_told=1e-4, lent_draft=1e-4)
    own, lent = (cell_of(chats, drafts, Shape(2, 1, edge=True, lent=share), only_lent) for share in (0.0, 1.0))
    ran(own, chats)
    ran(lent, chats)
    assert own.meters.gateway == 0
    assert lent.meters.gateway > 0
    assert all(gateway.busy > 0 for gateway in lent.gateways)


def test_a_gateway_that_is_too_slow_holds_everything_up(chats: list[Chat], drafts: Drafts) -> None:
    rates: list[float] = []
    for costs in (FREE, replace(FREE, commit=0.05)):
        window = ran(cell_of(chats, drafts, Shape(1, 1, edge=False), costs), chats)
        rates.append(window.tokens / window.seconds)
    assert rates[1] < 25  # 20 commits a second, and few have more than one token
    assert rates[0] > 2 * rates[1]


def test_a_busy_machine_slows_all_that_run_on_it(chats: list[Chat], drafts: Drafts) -> None:
    rates: list[float] = []
    for speed in (1.0, 0.5):
        window = ran(cell_of(chats, drafts, Shape(1, 2, edge=False, speed=speed), COSTS), chats, streams=8)
        rates.append(window.tokens / window.seconds)
    assert rates[1] == pytest.approx(0.5 * rates[0], rel=0.1)


def test_commits_share_frames_where_gateways_are_few() -> None:
    assert commits_a_frame(16, 1) == 16
    assert commits_a_frame(16, 1000) == pytest.approx(1, abs=0.01)
    assert commits_a_frame(16, 4) == pytest.approx(4, abs=0.1)
    assert commits_a_frame(0.2, 1) == 1


def test_a_service_is_as_large_as_its_gateways_need() -> None:
    before = 0
    for agents in (100, 10_000, 1_000_000):
        found = service(agents, ASSUMED, STREAM, steps(), COSTS)
        assert found.gateways >= before
        assert busy(found, ASSUMED, COSTS) <= AIM * found.gateways
        before = found.gateways
    assert before > 100
    assert service(1_000_000, ASSUMED, STREAM, steps(), replace(COSTS, commit=1e-3)).gateways > before


def test_a_verifier_takes_no_more_sessions_than_keep_their_pace() -> None:
    count = sessions_of_a_verifier(STREAM, steps(), 50.0)
    assert count > 1
    assert steps().seconds(2 * count) <= STREAM.tokens / 50.0
    assert sessions_of_a_verifier(STREAM, steps(), 10_000.0) == 1


def test_a_crowd_comes_to_what_its_service_is_reckoned_with() -> None:
    planned = service(50_000, ASSUMED, STREAM, steps(), COSTS)
    seen = Crowd(planned, ASSUMED, COSTS, USE).run(10)
    assert seen.gateway == pytest.approx(busy(planned, ASSUMED, COSTS) / planned.gateways, rel=0.1)
    assert seen.gateway < seen.gateway_99 <= seen.gateway_most
    assert seen.requests == pytest.approx(planned.streams / ASSUMED.lasts, rel=0.15)
    assert seen.scripts > planned.gateways * USE.second.scripts + 4 * seen.requests
    assert 0 < seen.redis < 1


def test_sizes_tell_what_gives_way() -> None:
    small, large = sizes(MEASURED, STREAM, ASSUMED, (100, 1_000_000), seconds=3)
    assert small["gives_way"] == "nothing"
    assert "the chart's replicas" in large["gives_way"]
    assert "PostgreSQL's connections" in large["gives_way"]
    assert large["gateways"] > 100 > small["gateways"]


def test_drafts_that_come_soon_after_a_frame_share_the_next() -> None:
    clock, sent = Clock(), list[tuple[float, list[int]]]()
    frames = Frames(clock, lambda drafts: sent.append((clock.now, [draft.first for draft in drafts])))
    rest = COALESCE_SECONDS
    for number, at in enumerate((0.0, 0.1 * rest, 0.9 * rest, 1.5 * rest, 5 * rest)):
        draft = Draft(1, 1, 0, number, [7], [0], b"")
        clock.at(at, lambda draft=draft: frames.put(draft))
    clock.run(lambda: False)
    assert [first for _, first in sent] == [[0], [1, 2], [3], [4]]
    assert [at for at, _ in sent] == pytest.approx([0.0, rest, 2 * rest, 5 * rest])


async def test_a_desktop_may_run_on_the_event_loops_time() -> None:
    clock, seen = LoopClock(), list[int]()
    soon, late = clock.now + 0.3, clock.now + 0.4
    for number in range(200):
        clock.at(late if number % 2 else soon, lambda number=number: seen.append(number))
    await asyncio.sleep(0.6)
    assert seen == [*range(0, 200, 2), *range(1, 200, 2)]


SOME = ("8 streams, 4 verifiers", "8 streams, 3 drafts in a frame", "8 streams, lent agents, 3 drafts a commit")


@pytest.mark.long
def test_costs_are_measured_on_real_gateways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SHAPES", tuple(shape for shape in measuring.SHAPES if shape.name in SOME))
    plan = Plan(windows=1, seconds=1.0, settle=0.5, agents=20, counted_seconds=2.0)
    with stores() as shared:
        found = measure(shared, plan)
    four, own, lent = (run.counts for run in found.runs[1:4])
    assert four.frame > 100  # four verifiers say one every 20 ms
    assert four.told == 0
    assert own.draft == pytest.approx(own.told, rel=0.1)
    assert own.another == 2 * own.draft
    assert own.lent_told == 0
    assert lent.lent_draft == lent.draft > 0
    assert found.runs[-2].counts.request > 0
    assert found.costs.request > 1e-4
    assert found.stores.request.scripts == pytest.approx(4, abs=1.5)
    assert found.stores.attach.scripts >= 1
