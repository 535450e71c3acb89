"""The memoized draft model."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.drafters.interface import DraftRequest
from edge_agent.drafting.draft_session import DraftSession
from edgedraft.wire import Open
from loadtest.simulator.draft_model import MemoizedDraftModel, position_of
from loadtest.simulator.recorded_chats import RecordedChat
from tests.loadtest.conftest import VOCAB_SIZE


def test_a_position_counts_the_output_tokens_that_agree_with_the_text(chats: Sequence[RecordedChat]) -> None:
    chat = chats[0]

    def position(output: Sequence[int]) -> tuple[int, int, tuple[int, ...]]:
        context = [*chat.prompt, *output]
        return position_of(chat, DraftRequest(1, context, len(context), len(output), chat.sampling))

    assert position([]) == (chat.number, 0, ())
    assert position(chat.text[:5]) == (chat.number, 5, ())
    assert position([*chat.text[:3], -1, chat.text[4]]) == (chat.number, 3, (-1, chat.text[4]))


def test_a_proposal_does_not_depend_on_when_it_is_computed(
    chats: Sequence[RecordedChat], draft_model: MemoizedDraftModel
) -> None:
    """A memoized proposal is what the draft model proposes at that position when it is new."""
    compared = 0
    fresh = MemoizedDraftModel(VOCAB_SIZE, threads=1, kv_tokens=4096)
    for chat in chats[:2]:
        session = DraftSession(Open(1, list(chat.prompt), chat.sampling, chat.max_tokens, list(chat.text[:4]), 8), 1)
        for _ in range(4):
            wanted = session.next_request()
            if wanted is None:
                break
            compared += 1
            proposal = draft_model.finish_forward(draft_model.start_forward(chat, wanted[1], None))
            assert fresh.finish_forward(fresh.start_forward(chat, wanted[1], None)).tokens == proposal.tokens
            session.add_proposals([(wanted[0], proposal)])
    assert compared >= 4


def test_recorded_proposals_are_preloaded(chats: Sequence[RecordedChat], draft_model: MemoizedDraftModel) -> None:
    chat, context = chats[0], [*chats[0].prompt, *chats[0].text[:3]]
    point = DraftRequest(1, context, len(context), 3, chat.sampling)
    proposal = draft_model.finish_forward(draft_model.start_forward(chat, point, None))
    other = MemoizedDraftModel(VOCAB_SIZE, threads=1, kv_tokens=4096)
    other.preload(draft_model.recorded)
    assert other.finish_forward(other.start_forward(chat, point, None)) == proposal
    assert len(other.recorded) == len(draft_model.recorded)


def test_positions_of_one_tree_are_computed_together(
    chats: Sequence[RecordedChat], draft_model: MemoizedDraftModel
) -> None:
    chat, text = chats[1], chats[1].text
    requests = [
        DraftRequest(1, [*chat.prompt, *text[:2], *path], len(chat.prompt) + 2, 2 + len(path), chat.sampling)
        for path in ([], [11], [12], [12, 13])
    ]
    # The prompt first: on a busy machine its forwards have no rows to spare.
    first = draft_model.finish_forward(draft_model.start_forward(chat, requests[0], None))
    pending = [draft_model.start_forward(chat, request, None) for request in requests[1:]]
    draft_model.finish_forward(pending[0])
    known = len(draft_model.recorded)
    proposals = [first, *(draft_model.finish_forward(one) for one in pending)]
    assert len(draft_model.recorded) == known  # the first forward computed them all
    alone = MemoizedDraftModel(VOCAB_SIZE, threads=1, kv_tokens=4096)
    for request, proposal in zip(requests, proposals, strict=True):
        assert alone.finish_forward(alone.start_forward(chat, request, None)).tokens[:1] == proposal.tokens[:1]
