"""What a forward costs by its number of requests, and how many of them pay."""

from __future__ import annotations

import random

import pytest

from edge_agent.drafting.forward_size import SMOOTHING, ForwardCosts, select_requests


def costs(**seconds: float) -> ForwardCosts:
    """Costs measured once: costs(n1=0.01, n4=0.02) for one request and for four."""
    measured = ForwardCosts()
    for requests, value in seconds.items():
        measured.record(int(requests[1:]), value)
    return measured


def test_before_the_first_measurement_more_requests_cost_no_more() -> None:
    assert [ForwardCosts().seconds(n) for n in (1, 8)] == [1.0, 1.0]


def test_costs_are_moving_averages() -> None:
    measured = costs(n1=0.010)
    measured.record(1, 0.030)
    assert measured.seconds(1) == pytest.approx(0.010 + SMOOTHING * 0.020)
    for _ in range(100):
        measured.record(1, 0.030)
    assert measured.seconds(1) == pytest.approx(0.030, rel=1e-3)


def test_between_two_measured_numbers_the_time_is_interpolated() -> None:
    measured = costs(n2=0.010, n6=0.030)
    assert [measured.seconds(n) for n in (2, 3, 4, 6)] == pytest.approx([0.010, 0.015, 0.020, 0.030])
    assert measured.seconds(1) == 0.010, "fewer than were ever tried"


def test_beyond_the_largest_measured_number_twice_as_many_are_tried_for_the_same_time() -> None:
    measured = costs(n1=0.005, n3=0.010)
    assert [measured.seconds(n) for n in (4, 6, 9, 12)] == pytest.approx([0.010, 0.010, 0.015, 0.020])


def test_where_more_requests_cost_nothing_all_are_taken() -> None:
    found = select_requests({1: [(0.9, 10), (0.05, 11), (0.01, 12)], 2: [(0.5, 20), (0.4, 21)]}, lambda n: 1.0)
    assert found == [(1, 10), (2, 20), (2, 21), (1, 11), (1, 12)], "the best of each session, then the most probable"


def test_where_each_request_costs_as_much_as_the_first_only_the_best_are_taken() -> None:
    found = select_requests({1: [(0.9, 10), (0.8, 11)], 2: [(0.1, 20), (0.1, 21)]}, float)
    # (0.9 + 0.1) / 2 tokens a second; with node 11 it is 1.8 / 3, with 21 as well 1.9 / 4.
    assert found == [(1, 10), (2, 20), (1, 11)]
    assert select_requests({1: [(0.9, 10), (0.8, 11)]}, float) == [(1, 10)], "0.9 / 1 against 1.7 / 2"


def test_a_request_that_does_not_pay_alone_may_pay_with_the_next() -> None:
    seconds = {1: 1.0, 2: 1.5, 3: 1.5}.__getitem__
    # 0.6 / 1, then 0.9 / 1.5 (no more), then 1.15 / 1.5.
    assert select_requests({1: [(0.6, 10), (0.3, 11), (0.25, 12)]}, seconds) == [(1, 10), (1, 11), (1, 12)]


def test_without_candidates_there_are_no_requests() -> None:
    assert select_requests({}, lambda n: 1.0) == []


def test_the_selection_is_the_best_of_all_numbers() -> None:
    rng = random.Random(1)
    for _ in range(200):
        measured = ForwardCosts()
        for _ in range(rng.randint(0, 4)):
            measured.record(rng.randint(1, 20), rng.uniform(0.01, 0.03))
        candidates = {
            session: sorted(((rng.random(), 10 * session + i) for i in range(rng.randint(1, 8))), reverse=True)
            for session in range(1, rng.randint(2, 5))
        }
        mass = {node: m for found in candidates.values() for m, node in found}
        selected = select_requests(candidates, measured.seconds)
        firsts = [found[0] for found in candidates.values()]
        others = sorted((m for found in candidates.values() for m, _ in found[1:]), reverse=True)
        rates = [
            (sum(m for m, _ in firsts) + sum(others[:n])) / measured.seconds(len(firsts) + n)
            for n in range(len(others) + 1)
        ]
        rate = sum(mass[node] for _, node in selected) / measured.seconds(len(selected))
        assert rate == pytest.approx(max(rates))
        assert len(set(selected)) == len(selected)


def test_one_slow_first_forward_does_not_keep_a_number_from_being_tried_again() -> None:
    measured = costs(n1=0.010, n4=0.500)
    assert measured.seconds(4) == pytest.approx(2 * 0.010 * 4 / 2), "four are expected to cost twice as much as one"
    for _ in range(60):
        measured.record(4, 0.012)
    assert measured.seconds(4) == pytest.approx(0.012, rel=0.01)
