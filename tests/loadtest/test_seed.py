"""The seed's experiment: virtual time, links, costs, and systems that must all say the target's own text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from edge_agent.drafters.interface import DraftRequest
from edge_agent.drafting.draft_session import DraftSession
from edgedraft.tree import DraftSlice
from edgedraft.wire import Open, Sampling
from loadtest.report import Result
from loadtest.seed.bench import NAMES
from loadtest.seed.beside import Beside, Speculation
from loadtest.seed.chats import Chat
from loadtest.seed.clock import Clock
from loadtest.seed.costs import Prices, cost
from loadtest.seed.drafts import Drafts
from loadtest.seed.fixed import FixedServer
from loadtest.seed.fleet import Load, Meters, Stream, System, Window, run
from loadtest.seed.plots import draw
from loadtest.seed.profiles import FRAME_BYTES, RETRANSMISSION, Device, Link, Way
from loadtest.seed.record import Record, read, record_file, write
from loadtest.seed.rounds import Round, Rounds
from loadtest.seed.statistics import ratio
from loadtest.seed.streaming import Streaming
from loadtest.seed.target import KEYS, MAX_SESSIONS, Playback, Target, played, verified
from loadtest.trace import load
from verifier.engine.interface import Request, ScheduledSession, StepResult
from verifier.scheduling.step_costs import StepCosts

TOKENS = 12
VOCAB = 49152
STEP = 0.03
DEVICE, LINK = Device("desktop", 0.002, "made up"), Link("near", 0.01)


@pytest.fixture(scope="module")
def chats() -> list[Chat]:
    return [
        Chat(i, "chat", "", tuple(c.prompt), Sampling(temperature=0), min(TOKENS, len(c.text)), tuple(c.text[:TOKENS]))
        for i, c in enumerate(load()[:4])
    ]


@pytest.fixture(scope="module")
def drafts() -> Drafts:
    return Drafts(VOCAB, threads=1, kv_tokens=4096)


@pytest.fixture
def target(chats: Sequence[Chat]) -> Target:
    return played(chats, lambda rows: STEP + 0.001 * rows, ())


@pytest.fixture
def steps() -> StepCosts:
    costs = StepCosts()
    for rows in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        costs.record(rows, STEP + 0.001 * rows)
    return costs


def test_things_happen_in_the_order_of_their_times() -> None:
    clock, seen = Clock(), list[str]()
    clock.at(2.0, lambda: seen.append("late"))
    clock.at(1.0, lambda: (seen.append("early"), clock.after(0.5, lambda: seen.append("between")))[0])
    clock.at(1.0, lambda: seen.append("early, asked for later"))
    clock.run(lambda: len(seen) == 4)
    assert seen == ["early", "early, asked for later", "between", "late"]
    assert clock.now == 2.0


def arrivals(link: Link, sizes: Sequence[int], seed: int = 1) -> list[tuple[int, float]]:
    clock = Clock()
    way = Way(clock, link, link.up, random.Random(seed))
    got: list[tuple[int, float]] = []
    for i, size in enumerate(sizes):
        way.send(size, lambda i=i: got.append((i, clock.now)))
    clock.run(lambda: False)
    return got


def test_a_message_takes_half_the_trip_and_what_its_bytes_take() -> None:
    [(_, alone)] = arrivals(Link("slow", 0.1, up=8000), [1000 - FRAME_BYTES])
    assert alone == pytest.approx(0.05 + 1.0)
    first, second = arrivals(Link("slow", 0.1, up=8000), [1000 - FRAME_BYTES] * 2)
    assert (first[1], second[1]) == (pytest.approx(1.05), pytest.approx(2.05))


def test_messages_stay_in_order_and_a_lost_one_holds_up_the_rest() -> None:
    got = arrivals(Link("bad", 0.02, jitter=0.02, loss=0.3), [20] * 200)
    assert [i for i, _ in got] == list(range(200))
    assert all(a <= b for (_, a), (_, b) in pairwise(got))
    assert got[-1][1] > RETRANSMISSION


def test_a_verify_goes_down_the_tree_as_far_as_the_text() -> None:
    tree = DraftSlice((5, 6, 7, 8), (-1, 0, 0, 2), (1, 2, 3, 4), (1, 2, 2, 3))
    assert verified(tree, [5, 7, 8, 9, 1], 0) == [5, 7, 8, 9]
    assert verified(tree, [5, 7, 8, 9, 1], 1) == [7]
    assert verified(DraftSlice(), [5, 7], 1) == [7]


def test_the_engine_played_back_takes_prompts_in_and_ends_with_the_text(chats: Sequence[Chat]) -> None:
    engine, chat = Playback(chats), chats[0]
    request = Request(1, chat.prompt, chat.sampling, chat.most, frozenset(), salt="new")
    assert engine.open(request) == len(chat.prompt)
    [part] = engine.step([ScheduledSession(1, 5)])
    assert (part.tokens, part.num_uncomputed) == ((), len(chat.prompt) - 5)
    said = list(engine.step([ScheduledSession(1, part.num_uncomputed)])[0].tokens)
    while True:
        [made] = engine.step([ScheduledSession(1, 1)])
        said += made.tokens
        if made.finish:
            break
    assert tuple(said) == chat.text


def systems(target: Target, steps: StepCosts, drafts: Drafts) -> dict[str, System]:
    looks = StepCosts()
    looks.record(1, 0.005)
    looks.record(64, 0.02)
    edge = (DEVICE, LINK, drafts)
    return {
        "alone": Streaming(Clock(), target, steps, None),
        "beside": Beside(Clock(), target, steps, looks, drafts, Speculation("both", 3, 6)),
        "rounds": Rounds(Clock(), target, steps, edge, Round(3, 6)),
        "streaming": Streaming(Clock(), target, steps, edge),
    }


@pytest.mark.parametrize("sessions", [1, 3])
def test_every_system_says_the_texts_and_speculation_takes_fewer_steps(
    chats: Sequence[Chat], target: Target, steps: StepCosts, drafts: Drafts, sessions: int
) -> None:
    load_of = Load(sessions, tokens=60, warm=6)
    windows = {name: run(system, chats, load_of, seed=1) for name, system in systems(target, steps, drafts).items()}
    assert target.engine.capacity().free_sessions == MAX_SESSIONS, "the next run finds an empty engine"
    for window in windows.values():
        assert window.tokens >= 60
        assert window.seconds > 0
        assert 0 < window.meters.server <= window.seconds + 2 * STEP
        assert window.gap(0.5) <= window.gap(0.99)
    alone = windows["alone"]
    assert alone.meters.verifies == alone.tokens
    assert alone.meters.desktops == alone.meters.up == 0
    for name in ("beside", "rounds", "streaming"):
        assert windows[name].meters.verifies < windows[name].tokens, name
        assert windows[name].meters.accepted > 0, name
    for name in ("rounds", "streaming"):
        assert windows[name].meters.up > 0
        assert windows[name].meters.desktops > 0


def test_arrivals_are_served_as_they_come(chats: Sequence[Chat], target: Target, steps: StepCosts) -> None:
    window = run(Streaming(Clock(), target, steps, None), chats, Load(rate=1.0, tokens=1200, warm=24), seed=2)
    assert len(window.firsts) > 50
    assert window.tokens / window.seconds == pytest.approx(TOKENS, rel=0.3)


def test_another_text_ends_the_run(chats: Sequence[Chat], target: Target, steps: StepCosts) -> None:
    other = [
        Chat(c.number, c.kind, c.words, c.prompt, c.sampling, c.most, (*c.text[:-1], c.text[-1] + 1)) for c in chats
    ]
    with pytest.raises(AssertionError, match="differs"):
        run(Streaming(Clock(), target, steps, None), other, Load(1, tokens=60, warm=0), seed=1)


def test_what_a_guess_is_does_not_depend_on_who_asks_for_it_when(chats: Sequence[Chat], drafts: Drafts) -> None:
    """What is recorded at a place is what the draft model says there when asked afresh."""
    looked = 0
    fresh = Drafts(VOCAB, threads=1, kv_tokens=4096)
    for chat in chats[:2]:
        session = DraftSession(Open(1, list(chat.prompt), chat.sampling, chat.most, list(chat.text[:4]), 8), 1)
        for _ in range(4):
            wanted = session.next_request()
            if wanted is None:
                break
            looked += 1
            known = drafts.answer(drafts.ask(chat, wanted[1], None))
            assert fresh.answer(fresh.ask(chat, wanted[1], None)).tokens == known.tokens
            session.add_proposal(wanted[0], known)
    assert looked >= 4


def test_costs_are_hours_by_prices() -> None:
    window = Window(seconds=36.0, tokens=1000, meters=Meters(server=30.0, desktops=18.0))
    priced = cost(window, 2, Prices(server_hour=5.0, edge_hour=0.5))
    assert priced.rented == pytest.approx((5.0 + 2 * 0.5) * 0.01 * 1000)
    assert priced.used == pytest.approx((5.0 * 0.01 + 0.5 * 0.005) * 1000)
    assert priced.edge_share == pytest.approx(1 / 6)


def test_the_prices_file_is_one() -> None:
    prices = Prices.read()
    assert prices.server_hour > prices.edge_hour > 0


def test_a_ratio_is_paired_and_has_an_interval() -> None:
    found = ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0])
    assert (found.value, found.low, found.high) == (pytest.approx(2), pytest.approx(2), pytest.approx(2))
    wide = ratio([2.0, 4.4, 7.6], [1.0, 2.0, 4.0])
    assert wide.low < wide.value < wide.high


def test_a_window_counts_gaps_by_tokens() -> None:
    window = Window(gaps=[(0.1, 9), (1.0, 1)])
    assert (window.gap(0.5), window.gap(0.99)) == (0.1, 1.0)
    assert window.mean_gap == pytest.approx(0.19)


def test_a_record_is_read_back_and_a_broken_one_is_none(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "record.msgpack"
    assert read(file) is None
    kept = Record({"0.0": [(1, 2), ()]}, [(3, 0, (), (5, 6), (-1, 0), (0.5, 0.25))])
    write(file, kept)
    assert read(file) == kept
    file.write_bytes(file.read_bytes()[:-3])
    assert read(file) is None


def test_a_record_belongs_to_its_circumstances() -> None:
    assert record_file("model", "float32") == record_file("model", "float32")
    assert record_file("model", "float32") != record_file("model", "bfloat16")


def test_recorded_guesses_are_remembered(chats: Sequence[Chat], drafts: Drafts) -> None:
    chat, context = chats[0], [*chats[0].prompt, *chats[0].text[:3]]
    point = DraftRequest(1, context, len(context), 3, chat.sampling)
    said = drafts.answer(drafts.ask(chat, point, None))
    other = Drafts(VOCAB, threads=1, kv_tokens=4096)
    other.remember(drafts.known)
    assert other.answer(other.ask(chat, point, None)) == said
    assert len(other.known) == len(drafts.known)


def test_plots_are_drawn_of_every_table(tmp_path: Path) -> None:
    def rows(name: str, values: Sequence[object]) -> list[dict[str, Any]]:
        figures = {"tokens_per_s": 2.0, "gap_ms": 3.0}
        return [{name: value, "way": way, **figures} for value in values for way in NAMES.values()]

    kinds = Result("kinds", [{"kind": "chat", "tokens_per_verify": 2.0}], {}, {})
    latency = Result("latency", rows("round_trip_ms", [0, 15]), {}, {})
    settings = {"ridge_rows": 16, "prices": {"server_hour": 5.05}}
    draw(Result("all", rows("load", ["1 stream", "4 streams"]), {}, settings, [], [kinds, latency]), tmp_path / "new")
    for name in ("throughput", "latency", "cost", "kinds"):
        assert (tmp_path / "new" / f"seed-{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_tree_that_found_no_room_stands_in_line_for_the_next_step(
    chats: Sequence[Chat], target: Target, steps: StepCosts, drafts: Drafts, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, turns = target.engine.step, count()

    def crowded(work: Sequence[ScheduledSession]) -> list[StepResult]:
        return whole(work if len(work) < 2 or next(turns) % 3 else work[:-1])

    monkeypatch.setattr(target.engine, "step", crowded)
    system = Rounds(Clock(), target, steps, (DEVICE, LINK, drafts), Round(3, 6))
    assert run(system, chats, Load(3, tokens=60, warm=6), seed=1).tokens >= 60


def test_a_prompt_of_which_one_token_is_left_goes_in(
    chats: Sequence[Chat], target: Target, steps: StepCosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a prompt may leave one token, and then the session is not yet one that drafts."""
    whole = target.engine.step
    server = FixedServer(target, steps, Meters())
    chat = chats[0]
    server.open(Stream(next(KEYS), chat, 0, 0, 0.0, "new"))
    [session] = server.sessions.values()

    def parted(work: Sequence[ScheduledSession]) -> list[StepResult]:
        return whole([replace(item, num_tokens=session.unseen - 1) if session.unseen > 1 else item for item in work])

    said: list[int] = []
    monkeypatch.setattr(target.engine, "step", parted)
    for _ in range(2):
        made = server.step({})
        assert made
        server.apply(made[0], lambda stream, tokens: said.extend(tokens))
    assert said == list(chat.text[:1])
    server.clear()
