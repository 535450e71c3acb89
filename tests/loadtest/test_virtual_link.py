"""The four ways of `bench link` over a link of virtual time, and the scoring of `bench draft`."""

from __future__ import annotations

import pytest

from edge_agent.drafters.interface import DraftRequest, Proposal
from edge_agent.drafters.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.draft_threshold import DraftThreshold
from edgedraft.tree import DraftSlice
from loadtest.draft import Chat, score
from loadtest.trace import GREEDY, Conversation, Tree
from loadtest.virtual_link import Machine, Outcome, Playback, alone, rounds, scheduler_of, streaming, verified

TEXT = list(range(100, 160))
CHAT = Conversation([1, 2, 3], TEXT, [Tree([], [], b"", [])] * len(TEXT))
MACHINE = Machine("test", lambda rows: 0.04, 0.004)


def knows(point: DraftRequest) -> Proposal:
    """The right token, and a wrong one beside it."""
    at = len(point.context) - 3
    return Proposal((TEXT[at], 7), (-1, -1), (0.9, 0.05)) if at < len(TEXT) else Proposal()


def is_wrong(point: DraftRequest) -> Proposal:
    return Proposal((7,), (-1,), (0.9,))


def streamed(trip: float, guess: object = knows) -> Outcome:
    engine = Playback()
    return streaming(CHAT, MACHINE, trip, guess, engine, scheduler_of(engine, MACHINE), DraftThreshold())  # type: ignore[arg-type]


def test_a_verify_commits_the_right_path_and_one_token_more() -> None:
    tree = DraftSlice((100, 9, 101, 102), (-1, -1, 0, 1), (0, 0, 0, 0), (1, 1, 2, 2))
    assert verified(tree, TEXT, 0) == [100, 101, 102]
    assert verified(DraftSlice(), TEXT, 5) == [105]
    assert verified(tree, TEXT, len(TEXT) - 1) == TEXT[-1:]


@pytest.mark.parametrize("trip", [0.0, 0.015, 0.05, 0.1])
def test_every_way_says_the_whole_text(trip: float) -> None:
    ways = [alone(CHAT, MACHINE), streamed(trip), streamed(trip, is_wrong)]
    ways += [rounds(CHAT, MACHINE, trip, 4, knows, proactive) for proactive in (False, True)]
    assert [way.tokens for way in ways] == [len(TEXT)] * 5
    assert all(way.commits == sorted(way.commits) for way in ways)


def test_drafts_that_are_right_save_steps_and_hide_the_round_trip() -> None:
    assert alone(CHAT, MACHINE).steps == len(TEXT)
    near, far = streamed(0.0), streamed(0.1)
    assert near.steps < len(TEXT) / 4
    assert far.seconds < rounds(CHAT, MACHINE, 0.1, 8, knows, proactive=False).seconds
    assert far.seconds < alone(CHAT, MACHINE).seconds


def test_drafts_that_are_wrong_cost_no_more_than_a_step() -> None:
    plain = alone(CHAT, MACHINE)
    assert streamed(0.05, is_wrong).seconds <= plain.seconds + 0.041


def test_a_gamble_that_comes_true_saves_looks() -> None:
    waiting = rounds(CHAT, MACHINE, 0.05, 4, knows, proactive=False)
    gambling = rounds(CHAT, MACHINE, 0.05, 4, knows, proactive=True)
    assert gambling.steps == waiting.steps
    assert gambling.seconds < waiting.seconds


def test_a_score_counts_tokens_verifies_and_nodes() -> None:
    again = [1, 2, 3, 4, 5, 6, 7, 8] * 4
    told = score(
        PromptLookupDrafter(), [Chat("code", again[:16], GREEDY, again[16:]), Chat("chat", [1, 2], GREEDY, [9, 8])]
    )
    assert told["all"].tokens == 18
    assert (told["chat"].tokens, told["chat"].verifies, told["chat"].nodes) == (2, 2, 0)
    assert told["code"].verifies < 8
    assert told["code"].right == told["code"].tokens - told["code"].verifies
    assert told["all"].nodes == told["code"].nodes >= told["code"].right
