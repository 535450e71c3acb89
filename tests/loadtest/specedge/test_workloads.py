"""Chats against an agent's work, whose texts repeat what is in their context or was written before."""

from __future__ import annotations

import random

import pytest

from edge_agent.drafters.interface import NO_PROPOSAL, Proposal
from edgedraft.wire import Sampling
from loadtest.settings import BenchSettings
from loadtest.simulator.oracle_draft import OracleDraftModel
from loadtest.simulator.recorded_chats import RecordedChat
from loadtest.specedge.workloads import COMPARED, Workload, accuracies, measure, most_probable

TOKENS = 120
ACCEPTANCE = 0.6


def workload(copies: bool, repeats: int = 1) -> Workload:
    """Chats of random tokens; with `copies` a text is in its prompt, and each text is written `repeats` times."""
    rng = random.Random(5)
    chats: list[RecordedChat] = []
    for _ in range(4):
        text = tuple(rng.randrange(10_000) for _ in range(TOKENS))
        for _ in range(repeats):
            own = tuple(rng.randrange(10_000) for _ in range(20))
            prompt = (*own, *text, *own[:4]) if copies else own
            chats.append(RecordedChat(len(chats), "edit", "", prompt, Sampling(temperature=0), TOKENS, text))
    return Workload("made up", chats, cached=True)


def test_prompt_lookup_finds_what_is_in_the_context() -> None:
    new, copied = workload(copies=False), workload(copies=True)
    for made, found in ((new, 0.0), (copied, 0.95)):
        row = accuracies(made, OracleDraftModel(made.chats, ACCEPTANCE))
        assert row["tokens"] == 4 * TOKENS
        assert row["model"] == pytest.approx(ACCEPTANCE, abs=0.1)
        assert row["prompt_lookup"] == pytest.approx(found, abs=0.05)
        assert row["model_and_lookup"] >= max(row["model"], row["prompt_lookup"]) - 0.1


def test_past_outputs_find_what_was_written_before() -> None:
    made = workload(copies=False, repeats=2)
    row = accuracies(made, OracleDraftModel(made.chats, ACCEPTANCE))
    assert row["prompt_lookup"] == 0
    assert row["and_past_outputs"] > row["model_and_lookup"] + 0.1


def test_the_most_probable_token_is_one_behind_the_text() -> None:
    assert most_probable(NO_PROPOSAL) is None
    assert most_probable(Proposal((5, 6, 7), (-1, 0, -1), (0.3, 0.9, 0.4))) == 7


@pytest.mark.long
def test_every_system_gains_by_prompt_lookup_where_texts_are_copied() -> None:
    made = workload(copies=True)
    oracle = OracleDraftModel(made.chats, ACCEPTANCE)
    settings = BenchSettings.model_validate({"name": "specedge"})
    without, with_lookup = (measure(made, oracle, (), 1, lookup, settings) for lookup in (False, True))
    assert without["datacenter_only"] == pytest.approx(with_lookup["datacenter_only"])
    for name in COMPARED[1:]:
        assert with_lookup[name] > 1.2 * without[name]
