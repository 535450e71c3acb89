"""Draft trees under any schedule of delays, losses and replaced ends, with correct and adversarial agents."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedraft.tree import EMPTY_DRAFT, DraftTree, DraftViolation
from edgedraft.wire import MAX_WINDOW, Draft
from tests.edgedraft.draft_simulation import (
    EVENTS,
    REFERENCE,
    VOCABULARY,
    Schedule,
    Simulation,
    SteadyRun,
    accepted_path,
    add,
    adversarial_draft,
    check_tree,
    deliver_all,
    run_schedule,
    schedules,
    target,
)


@settings(deadline=None, max_examples=200)
@given(schedules(EVENTS, 100))
def test_text_and_bounds_under_any_schedule(schedule: Schedule) -> None:
    sim = Simulation()
    run_schedule(sim, schedule)
    deliver_all(sim)
    sim.check()
    assert sim.relay.committed == sim.verifier.committed
    assert sim.agent
    assert sim.agent.tree.committed == sim.verifier.committed


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32))
def test_text_and_bounds_over_long_runs(seed: int) -> None:
    """Long enough for large node ids and epochs."""
    rng = random.Random(seed)
    sim = Simulation()
    run_schedule(sim, [(rng.choice(EVENTS), rng.randint(1, 12), rng.randrange(2**16)) for _ in range(1000)])


@settings(deadline=None, max_examples=100)
@given(schedules(EVENTS, 60), st.integers(1, 4))
def test_drafts_are_used_again_after_any_schedule(schedule: Schedule, delay: int) -> None:
    """Once an agent that drafts well is opened, verification commits more tokens than decoding would."""
    sim = Simulation()
    run_schedule(sim, schedule)
    sim.window = MAX_WINDOW
    sim.replace_agent()
    steady = SteadyRun(sim, delay, rate=4)
    steady.run(40)
    assert steady.run(20) > 2


@settings(deadline=None, max_examples=40)
@given(
    delay=st.integers(1, 5),
    rate=st.integers(2, 6),
    head_start=st.integers(0, 30),
    window=st.integers(40, MAX_WINDOW),
)
def test_perfect_drafts_hide_the_round_trip(delay: int, rate: int, head_start: int, window: int) -> None:
    """An agent that is right and faster than the verifier catches up with any head start.

    From then on the tokens per tick are the agent's rate, or the window per round trip where that is less: the round
    trip itself costs nothing.
    """
    sim = Simulation()
    sim.window = window
    deliver_all(sim)
    for _ in range(head_start):
        sim.decode()
    steady = SteadyRun(sim, delay, rate)
    steady.run(100)
    round_trip = 4 * delay + 2  # from drafting a node to the next draft that its commit made space for
    assert steady.run(10 * round_trip) > min(rate, window / round_trip) - 0.25


def test_a_lost_draft_makes_the_rest_of_its_epoch_useless() -> None:
    """Nodes below a gap are dropped. Drafts are useful again from the next epoch or when the session is reopened."""
    sim = Simulation()
    sim.window = MAX_WINDOW
    deliver_all(sim)
    rng = random.Random(0)
    sim.agent_draft_nodes(3, 1.0, 0.0, rng)
    sim.agent_draft_nodes(1, 1.0, 0.0, rng, lose=True)
    steady = SteadyRun(sim, delay=1, rate=3)
    steady.run(20)
    assert steady.run(20) == 1
    sim.open_agent()
    steady.run(20)
    assert steady.run(20) > 2


def test_a_slow_agent_never_runs_out_of_epochs() -> None:
    """Thousands of mismatches while nothing is sent (window 0): all ends accept the first draft after them."""
    sim = Simulation()
    sim.window = 0
    deliver_all(sim)
    for _ in range(3000):
        sim.decode()
        deliver_all(sim)
    sim.window = 8
    sim.decode()
    deliver_all(sim)
    sim.agent_draft_nodes(8, 1.0, 0.0, random.Random(0))
    deliver_all(sim)
    assert sim.verify(8) == 9


def test_a_verifier_takes_over_after_many_epochs() -> None:
    """A new verifier has received none of a long session's epochs; drafts in flight must not be violations."""
    sim = Simulation()
    deliver_all(sim)
    rng = random.Random(0)
    for _ in range(1500):
        sim.agent_draft_nodes(2, 0.0, 0.0, rng)
        sim.verify(2)
        deliver_all(sim)
    sim.agent_draft_nodes(3, 1.0, 0.0, rng)
    sim.replace_verifier(reopen=False)
    deliver_all(sim)
    sim.verify(8)
    sim.open_agent()
    deliver_all(sim)
    sim.agent_draft_nodes(8, 1.0, 0.0, rng)
    deliver_all(sim)
    assert sim.verify(8) == 9


# Adversarial agents


@settings(deadline=None, max_examples=200)
@given(schedules(["adversarial draft"] * 8 + EVENTS, 100))
def test_an_adversarial_agent_changes_only_speed(schedule: Schedule) -> None:
    sim = Simulation(is_correct=False)
    run_schedule(sim, schedule)
    deliver_all(sim)
    sim.check()
    assert sim.relay.committed == sim.verifier.committed


@settings(deadline=None, max_examples=200)
@given(
    steps=st.lists(st.tuples(st.integers(0, 2**16), st.sampled_from(["verify", "decode", "wait", "wait", "wait"]))),
    max_nodes=st.integers(0, 8) | st.just(MAX_WINDOW),
)
def test_an_adversarial_draft_is_added_dropped_or_a_violation(steps: list[tuple[int, str]], max_nodes: int) -> None:
    """The tree stays valid even if it is used after violations, which no program does."""
    tree = DraftTree(max_nodes)
    for seed, then in steps:
        add_and_step(tree, adversarial_draft(tree, random.Random(seed)), then)


@settings(deadline=None, max_examples=100)
@given(
    drafts=st.lists(
        st.builds(
            Draft,
            session=st.just(1),
            epoch=st.integers(0, 4) | st.integers(0, 2**53),
            at=st.integers(0, 6) | st.integers(0, 2**31 - 1),
            first=st.integers(0, 12) | st.integers(0, 2**53),
            tokens=st.lists(st.integers(0, VOCABULARY), min_size=1, max_size=6),
            parents=st.lists(st.integers(0, 12) | st.integers(0, 2**53), max_size=6),
            confidence=st.binary(max_size=6),
        ),
        max_size=30,
    )
)
def test_any_draft_is_added_dropped_or_a_violation(drafts: list[Draft]) -> None:
    tree = DraftTree(4)
    for draft in drafts:
        add_and_step(tree, draft, "verify")


def add_and_step(tree: DraftTree, draft: Draft, then: str) -> None:
    live = len(tree)
    try:
        taken = add(tree, draft)
    except DraftViolation:
        pass
    else:
        assert 0 <= taken <= len(draft.tokens)
        assert len(tree) <= live + taken
    check_tree(tree)
    if then != "wait":
        drafted = tree.select(4 if then == "verify" else 0)
        accepted = accepted_path(tree.committed, drafted)
        tree.commit(len(tree.committed), [*accepted, target(tree.committed + accepted)])
        check_tree(tree)
        assert tree.committed == REFERENCE[: len(tree.committed)]


@pytest.mark.parametrize("committed", [0, 5])
def test_an_empty_tree_has_nothing_to_verify(committed: int) -> None:
    assert DraftTree(8, range(committed)).select(8) is EMPTY_DRAFT
