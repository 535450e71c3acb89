"""Fair shares of a verifier: the arithmetic, and a scheduler on a simulated clock with greedy and modest keys."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from tests.verifier.counting_engine import LIMITS, SchedulerSim
from verifier.engine.interface import Overloaded
from verifier.scheduling.fair_shares import FairShares, Share, divide, divide_prompt_tokens, greediest


def test_parts_are_max_min_fair() -> None:
    assert divide(10, [20, 20]) == [5, 5]
    assert divide(10, [2, 20, 20]) == [2, 4, 4]
    assert divide(10, [1, 2, 3]) == [1, 2, 3]
    assert divide(1, [5, 5, 5]) == [1, 0, 0]
    assert divide(7, []) == []
    dice = random.Random(3)
    for _ in range(300):
        demands = [dice.randrange(1, 30) for _ in range(dice.randrange(1, 9))]
        amount = dice.randrange(0, 120)
        parts = divide(amount, demands)
        assert sum(parts) == min(amount, sum(demands))
        unserved = [part for part, demand in zip(parts, demands, strict=True) if part < demand]
        assert all(max(parts) <= part + 1 for part in unserved), "nobody has more than one who wants more"


def test_prompt_tokens_go_by_tenant_then_key_then_order() -> None:
    a1, a2, b = Share("a", "1"), Share("a", "2"), Share("b", "1")
    demands = [(1, a1, 100), (2, a1, 100), (3, a2, 10), (4, b, 100)]
    assert divide_prompt_tokens(100, demands) == {1: 40, 3: 10, 4: 50}
    assert divide_prompt_tokens(100, demands[:2]) == {1: 100}


def test_tenants_take_turns_and_their_keys_do() -> None:
    shares = FairShares()
    a1, a2, b = Share("a", "1"), Share("a", "2"), Share("b", "1")
    waiting = [("x", a1, 10.0), ("y", a1, 10.0), ("z", a2, 10.0), ("u", b, 10.0), ("v", b, 10.0)]
    for _, share, _ in waiting:
        shares.arrive(share)
    assert shares.order(waiting) == ["x", "u", "z", "v", "y"]


def test_an_idle_key_saves_nothing_up_and_corrections_count() -> None:
    shares = FairShares()
    a, b = Share("a", "1"), Share("b", "1")
    shares.arrive(a)
    for _ in range(5):
        shares.start(a, 100.0)
    shares.arrive(b)
    shares.start(b, 300.0)  # starts where a started last
    assert shares.order([("b", b, 1.0), ("a", a, 1.0)]) == ["a", "b"]
    shares.stop(b, -290.0)
    assert shares.order([("a", a, 1.0), ("b", b, 1.0)]) == ["b", "a"]


def test_the_greediest_makes_room() -> None:
    a1, a2, b = Share("a", "1"), Share("a", "2"), Share("b", "1")
    assert greediest([a1, a1, a2], b) == a1
    assert greediest([b, a1, a1], a1) is None
    assert greediest([b, a1, a1], a2) == a1, "within a tenant, too"
    assert greediest([b], b) is None


def test_a_newcomer_starts_at_once_though_one_key_has_all_places() -> None:
    sim = SchedulerSim(replace(LIMITS, max_sessions=4), max_sessions=5)
    assert [sim.open(key, salt="a", share="a") for key in range(1, 7)] == [None] * 4 + [0, 1], "all, while it is alone"
    assert sim.open(20, salt="b", share="b") is None
    assert sim.open(21, salt="b", share="b") == 1, "the next turn is the other's, and then its own"
    assert sim.open(7, salt="c", share="c") == 0, "nothing runs for it, but the engine is full"
    sim.scheduler.close(1)
    assert 7 in sim.step(), "the place that was reserved is the newcomer's"
    sim.scheduler.close(2)
    sim.step()
    assert sim.scheduler.num_waiting == 3, "four run: the reserved place is given back before others start"
    sim.scheduler.close(3)
    sim.step()
    assert sim.scheduler.num_waiting == 2


def test_a_tenants_keys_do_not_take_all_reserved_places() -> None:
    sim = SchedulerSim(replace(LIMITS, max_sessions=4), max_sessions=8)
    for key in range(1, 5):
        sim.open(key, salt="a", share="1")
    assert sim.open(5, salt="a", share="2") is None
    assert sim.open(6, salt="a", share="3") == 0
    assert sim.open(7, salt="b", share="4") is None


def test_a_full_queue_rejects_the_last_of_the_greediest_and_not_the_newcomer() -> None:
    sim = SchedulerSim(replace(LIMITS, max_waiting=3), max_sessions=1)
    for key in range(1, 5):
        sim.open(key, salt="a", share="a")
    with pytest.raises(Overloaded):
        sim.open(5, salt="a", share="a")
    assert sim.open(6, salt="b", share="b") == 0
    [(rejected, _)] = sim.scheduler.drop_expired(sim.now)
    assert rejected == 4


@pytest.mark.parametrize("places", [1, 2, 8])
def test_two_keys_get_half_of_the_verifier_each_however_much_one_asks_for(places: int) -> None:
    """Both always have sessions waiting, one forty times as many; each gets half, give or take a session's tokens."""
    sim = SchedulerSim(replace(LIMITS, max_waiting=64, max_wait=1e9, max_sessions=places), max_sessions=places)
    owner: dict[int, str] = {}
    next_key = 1
    tokens: Counter[str] = Counter()
    length = {"greedy": 25, "modest": 10}

    def fill() -> None:
        nonlocal next_key
        open_now = Counter(owner.values())
        for name, wanted in (("greedy", 40), ("modest", places + 1)):
            for _ in range(wanted - open_now[name]):
                owner[next_key] = name
                sim.open(next_key, tokens=length[name], salt=name, share=name)
                next_key += 1

    for _ in range(1500):
        fill()
        for key, commit in sim.step().items():
            tokens[owner[key]] += len(commit.tokens)
            if commit.finish:
                del owner[key]
        assert not sim.scheduler.drop_expired(sim.now)
    assert abs(tokens["greedy"] - tokens["modest"]) <= 2 * places * max(length.values())
    assert sum(tokens.values()) == 1500 * places, "no place stays empty"


def test_long_prompts_of_one_key_do_not_hold_up_a_short_one_of_another() -> None:
    sim = SchedulerSim()
    for key in range(1, 31):
        sim.open(key, prompt=900, salt="a", share="a")
    sim.open(31, prompt=30, salt="b", share="b")
    assert 31 in sim.step(), "half of a step's 64 rows are its"


def test_sessions_without_a_key_are_served_in_order_of_arrival() -> None:
    sim = SchedulerSim(max_sessions=1)
    sim.open(1, tokens=2)
    assert [sim.open(key, tokens=2, salt=f"{key % 2}") for key in range(2, 6)] == [0, 1, 2, 3]
