"""The drafting loop behind a real socket: what reaches a gateway that commits, opens, closes and sends errors."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

import pytest

from edge_agent.drafters.interface import CombinedDrafter, Drafter, DraftRequest, Proposal
from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.stats import DraftStats
from edgedraft.wire import Close, Commit, Sampling
from tests.edge_agent.scripted_gateway import ScriptedGateway, ScriptedSession, attached, until
from tests.edge_agent.tiny_drafter import GREEDY, WARM, tiny_drafter
from tests.support.tiny_llama import VOCAB, greedy_text, sampled_text

PROMPT = [5, 17, 80, 3, 44, 21, 9]
PROMPTS = [[first, *PROMPT] for first in (1, 2, 3)]


def model(vocab_size: int) -> Drafter:
    return tiny_drafter(vocab_size=vocab_size)


class Counting(CombinedDrafter):
    """Proposes the last token plus one."""

    def __init__(self, vocab_size: int = VOCAB) -> None:
        super().__init__([])
        self.opened: list[int] = []

    def open(self, session: int) -> None:
        self.opened.append(session)

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        return [self.propose_one(point) for point in requests]

    def propose_one(self, point: DraftRequest) -> Proposal:
        return Proposal(((point.context[-1] + 1) % VOCAB,), (-1,), (0.95,))


def counting_text(prompt: Sequence[int], count: int) -> list[int]:
    return [(prompt[-1] + 1 + i) % VOCAB for i in range(count)]


async def silence(session: ScriptedSession) -> None:
    """Assert that nothing is drafted for this session."""
    await asyncio.sleep(0.15)
    assert not session.drafts


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "temperature 0.8"])
async def test_with_the_target_as_its_own_draft_every_favourite_is_right(sampling: Sampling) -> None:
    text = greedy_text(PROMPT, 60) if sampling == GREEDY else sampled_text(PROMPT, 60, sampling)
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, model):
        session = await gateway.open(PROMPT, text, sampling)
        await session.finish()
    assert session.accepted == session.num_favourites
    assert session.steps <= 30


async def test_it_drafts_on_to_its_window_without_any_answer() -> None:
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, model):
        session = await gateway.open(PROMPT, greedy_text(PROMPT, 60), window=12)
        await session.nodes(12)
        assert len(session.drafts) > 1, "sent as they came"
        await asyncio.sleep(0.05)
    assert session.widest == 12


async def test_each_mismatch_of_another_models_drafts_starts_an_epoch() -> None:
    text = greedy_text(PROMPT, 40, seed=1)
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, model):
        session = await gateway.open(PROMPT, text)
        await session.finish()
    epochs = [draft.epoch for draft in session.drafts]
    assert epochs == sorted(epochs)
    assert epochs[-1] > 10
    assert all(draft.at <= len(text) for draft in session.drafts)


async def test_the_window_holds_while_it_changes() -> None:
    rng = random.Random(1)
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, Counting):
        session = await gateway.open(PROMPT, counting_text(PROMPT, 400), window=5)
        while session.left > 70:
            await session.nodes(session.window)
            await asyncio.sleep(0.003)
            assert len(session.tree) == session.window, "all of the window is used, and no more"
            session.window = rng.choice([1, 3, 64])
            await session.verify(64)


async def test_what_was_held_back_goes_out_with_the_commit_that_makes_room() -> None:
    class Once(Counting):
        def propose_one(self, point: DraftRequest) -> Proposal:
            return Proposal((10, 11, 12), (-1, 0, 1), (0.9, 0.9, 0.9)) if point.context == PROMPT else Proposal()

    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, Once) as agent:
        session = await gateway.open(PROMPT, [10, 11, 12, 13], window=1)
        await session.nodes(1)
        session.window = 8
        await session.commit([10])
        await session.nodes(2)
        assert agent.stats.snapshot().total.drafted == 3
    assert [draft.tokens for draft in session.drafts] == [[10], [11, 12]]


async def test_several_sessions_are_drafted_in_one_forward() -> None:
    drafters: list[Asked] = []

    class Asked(CombinedDrafter):
        def __init__(self, vocab_size: int) -> None:
            super().__init__([tiny_drafter(vocab_size=vocab_size)])
            self.most = 0
            drafters.append(self)

        def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
            self.most = max(self.most, len({request.session for request in requests}))
            return super().propose(requests)

    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, Asked):
        sessions = [await gateway.open(prompt, greedy_text(prompt, 40)) for prompt in PROMPTS]
        await asyncio.gather(*(session.finish() for session in sessions))
    assert drafters[0].most == 3
    for session in sessions:
        assert session.accepted == session.num_favourites > 10


async def test_it_joins_late_with_what_is_committed() -> None:
    text = sampled_text(PROMPT, 40, WARM)
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, model):
        session = await gateway.open(PROMPT, text, WARM, committed=25, epoch=9)
        await session.finish()
    assert session.drafts[0].at == 25
    assert session.drafts[0].epoch == 10
    assert session.accepted == session.num_favourites > 0


async def test_a_session_opened_again_begins_anew_above_every_epoch() -> None:
    text, drafter = counting_text(PROMPT, 60), Counting()
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, lambda _: drafter):
        first = await gateway.open(PROMPT, text)
        await first.nodes(5)
        again = await gateway.open(PROMPT, text, number=first.number, committed=10, epoch=40)
        await until(lambda: again.tree.epoch == 41 and len(again.tree) >= 5)
        third = await gateway.open(PROMPT, text, number=first.number, committed=20, epoch=2)
        await until(lambda: third.tree.epoch == 42)
        await third.finish()
    assert drafter.opened == [1, 1, 1], "the drafter forgets the earlier text as well"
    assert third.accepted == third.num_favourites > 20


async def test_more_sessions_than_allowed_are_not_drafted_until_one_ends() -> None:
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, Counting, max_sessions=2):
        sessions = [await gateway.open(prompt, counting_text(prompt, 40)) for prompt in PROMPTS]
        await sessions[1].nodes(8)
        await silence(sessions[2])
        await gateway.send(Close(sessions[0].number))
        late = await gateway.open(PROMPT, counting_text(PROMPT, 40))
        await late.nodes(8)
        await sessions[1].finish()
    assert not sessions[2].drafts


async def test_the_gateways_bound_holds_as_well() -> None:
    async with ScriptedGateway(VOCAB, max_sessions=1) as gateway, attached(gateway, Counting):
        sessions = [await gateway.open(prompt, counting_text(prompt, 40)) for prompt in PROMPTS]
        await sessions[0].nodes(8)
        await silence(sessions[1])


@pytest.mark.parametrize(("prompt", "committed"), [([5, VOCAB], 0), ([5, 2**31 - 1], 0), (PROMPT, 1)])
async def test_tokens_outside_the_vocabulary_are_not_drafted_for(prompt: list[int], committed: int) -> None:
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, Counting):
        foreign = await gateway.open(prompt, [VOCAB] * 40, committed=committed)
        await silence(foreign)
        good = await gateway.open(PROMPT, counting_text(PROMPT, 20))
        await good.finish()
    assert not foreign.drafts


@pytest.mark.parametrize("wrong", [(0, [VOCAB]), (1, [7]), (0, [VOCAB - 1] * 3 + [VOCAB])])
async def test_an_impossible_commit_ends_its_session_alone(wrong: tuple[int, list[int]]) -> None:
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, Counting) as agent:
        victim = await gateway.open(PROMPT, counting_text(PROMPT, 40))
        other = await gateway.open(PROMPTS[1], counting_text(PROMPTS[1], 40))
        await victim.nodes(8)
        await gateway.send(Commit(victim.number, *wrong, window=16))
        await until(lambda: list(agent.stats.snapshot().sessions) == [other.number])
        await other.finish()


async def test_late_and_unknown_messages_are_passed_over() -> None:
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, Counting) as agent:
        session = await gateway.open(PROMPT, counting_text(PROMPT, 40))
        await gateway.send(Commit(77, 0, [1], window=16), Close(78), Commit(session.number, 0, [], window=16))
        await session.finish()
        assert len(agent.watch.names) == 1
    assert session.accepted > 10


async def test_what_breaks_in_one_session_ends_that_session_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Fragile(Counting):
        def propose_one(self, point: DraftRequest) -> Proposal:
            if point.context[0] == 2 and len(point.context) > 20:
                raise RuntimeError("broken")
            return super().propose_one(point)

    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, Fragile) as agent:
        sessions = [await gateway.open(prompt, counting_text(prompt, 60), window=32) for prompt in PROMPTS]
        await until(lambda: len(agent.stats.snapshot().sessions) == 2)
        for session in (sessions[0], sessions[2]):
            await session.finish()
            assert session.accepted == session.num_favourites > 10
    assert len(sessions[1].tree) == 13
    assert "session 2 broke the drafter" in caplog.text


async def test_a_session_that_breaks_the_drafter_with_several_requests_ends_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Branching(Counting):
        def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
            if any(len(request.context) > len(PROMPT) + 2 for request in requests):
                raise RuntimeError("broken")
            return [Proposal((1, 2, 3), (-1,) * 3, (0.33,) * 3) for _ in requests]

    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, Branching) as agent:
        await gateway.open(PROMPT, counting_text(PROMPT, 60), window=64)
        await until(lambda: agent.stats.snapshot().total.drafted > 4 and not agent.stats.snapshot().sessions)
    assert caplog.text.count("session 1 broke the drafter") == 1


async def test_prompt_lookup_alone_drafts_repeated_text() -> None:
    said = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]
    text = [30, *said, 31, 32, *said, 33, *said]
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, lambda _: PromptLookupDrafter()):
        session = await gateway.open([*said, 1, 2], text)
        await session.finish(wait=0.1)
    assert session.accepted > 20
    assert session.steps < len(text) - 20


async def test_lookup_and_model_together_accept_more_than_the_model() -> None:
    said = [11, 52, 13, 94, 35, 16, 77, 18, 59, 20, 81, 22]
    text = [30, *said, 31, 32, *said]

    async def steps(drafter: Callable[[int], Drafter]) -> int:
        async with ScriptedGateway(VOCAB) as gateway, attached(gateway, drafter):
            session = await gateway.open([*said, 1, 2], text)
            await session.finish(wait=0.1)
        return session.steps

    assert await steps(lambda n: CombinedDrafter([PromptLookupDrafter(), model(n)])) < await steps(model) - 10


async def test_counts_tell_what_was_drafted_and_accepted_and_the_log_says_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with ScriptedGateway(VOCAB) as gateway, attached(gateway, Counting) as agent:
        session = await gateway.open([90, 91], counting_text([90, 91], 30))
        while session.left > 10:
            await session.nodes(8)
            await session.verify()
        snapshot = agent.stats.snapshot()
        await session.commit(session.text[-session.left :], finish="length")
        await until(lambda: not agent.stats.snapshot().sessions)
        total = agent.stats.snapshot().total
    assert snapshot.sessions[1] == snapshot.total
    assert snapshot.total.drafted >= snapshot.total.accepted > 10
    assert total.accepted == session.accepted
    assert total.committed == 30
    assert total.drafted == sum(len(draft.tokens) for draft in session.drafts)
    assert DraftStats(1, 2, 3) + DraftStats(10, 20, 30) == DraftStats(11, 22, 33)
    said = [record.getMessage() for record in caplog.records if record.name == "edge_agent.drafting.loop"]
    drafted, accepted = total.drafted, total.accepted
    assert said == [f"session 1 finished (length): {drafted} tokens drafted, {accepted} accepted of 30 committed"]
