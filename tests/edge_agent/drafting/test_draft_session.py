"""Where a session drafts next, what it sends, and how it follows the committed text."""

from __future__ import annotations

import pytest

from edge_agent.drafters.interface import INCOMPLETE, Proposal
from edge_agent.drafting.draft_session import DraftSession
from edgedraft.wire import MAX_WINDOW, Commit, Draft, Open, Sampling

PROMPT = [1, 2, 3]


def opened(window: int = 8, max_tokens: int = 100, eos: tuple[int, ...] = (), committed: tuple[int, ...] = ()) -> Open:
    return Open(7, PROMPT, Sampling(), max_tokens, list(committed), window=window, eos=eos)


def session(**options: int | tuple[int, ...]) -> DraftSession:
    return DraftSession(opened(**options), epoch=1)  # type: ignore[arg-type]


def fan(*candidates: tuple[int, float]) -> Proposal:
    return Proposal(tuple(t for t, _ in candidates), (-1,) * len(candidates), tuple(p for _, p in candidates))


def chain(*tokens: int, probability: float = 0.9) -> Proposal:
    return Proposal(tokens, tuple(range(-1, len(tokens) - 1)), (probability,) * len(tokens))


def expand(drafting: DraftSession, proposal: Proposal) -> Draft | None:
    wanted = drafting.next_request()
    assert wanted is not None
    drafts = drafting.add_proposals([(wanted[0], proposal)])
    assert len(drafts) <= 1
    return drafts[0] if drafts else None


def context(drafting: DraftSession) -> list[int] | None:
    wanted = drafting.next_request()
    return None if wanted is None else wanted[1].context


def test_the_first_point_is_the_end_of_the_prompt() -> None:
    wanted = session().next_request()
    assert wanted is not None
    node, point = wanted
    assert (node, point.session, point.context, point.num_committed, point.output_index) == (0, 7, PROMPT, 3, 0)


def test_ids_are_contiguous_and_parents_are_named() -> None:
    drafting = session()
    assert expand(drafting, fan((10, 0.6), (11, 0.3))) == Draft(7, 1, 0, 1, [10, 11], [0, 0], bytes([12, 28]))
    assert expand(drafting, chain(20, 21)) == Draft(7, 1, 0, 3, [20, 21], [1, 3], bytes([2, 2]))


def test_the_most_open_node_is_next_and_none_is_expanded_twice() -> None:
    drafting = session()
    expand(drafting, fan((10, 0.6), (11, 0.3)))
    assert context(drafting) == [*PROMPT, 10]
    expand(drafting, fan((20, 0.4)))
    assert context(drafting) == [*PROMPT, 11], "0.3 is more than 0.6 * 0.4"
    expand(drafting, Proposal())
    assert context(drafting) == [*PROMPT, 10, 20]
    expand(drafting, Proposal())
    assert drafting.next_request() is None


def test_nodes_whose_children_were_proposed_are_not_requested() -> None:
    drafting = session(window=64)
    whole = Proposal((10, 11, 20, 21), (-1, -1, 0, 2), (0.5, 0.3, 0.6, 0.6), expanded=(0, 2))
    expand(drafting, whole)
    contexts = [drafting.request_at(node).context[len(PROMPT) :] for _, node in drafting.candidates(8)]
    assert contexts == [[11], [10, 20, 21]], "the last of the chain, and the sibling"


def test_nor_are_they_when_they_are_sent_later() -> None:
    drafting = session(window=2)
    expand(drafting, Proposal((10, 20, 21, 22), (-1, 0, 1, 2), (0.9,) * 4, expanded=(0, 1, 2)))
    [draft] = drafting.commit(Commit(7, 0, [10], window=64))
    assert draft.tokens == [21, 22]
    assert [drafting.request_at(node).context[-1] for _, node in drafting.candidates(8)] == [22]


def test_several_nodes_are_drafted_from_in_one_forward_and_sent_as_one_message() -> None:
    drafting = session(window=64)
    expand(drafting, fan((10, 0.6), (11, 0.3), (12, 0.05)))
    assert drafting.candidates(2) == [(pytest.approx(0.6, abs=0.02), 1), (pytest.approx(0.3, abs=0.02), 2)]
    assert [drafting.request_at(node).context[-1] for _, node in drafting.candidates(8)] == [10, 11, 12]
    [draft] = drafting.add_proposals([(1, fan((20, 0.5), (21, 0.4))), (2, fan((30, 0.9)))])
    assert (draft.first, draft.tokens, draft.parents) == (4, [20, 21, 30], [1, 1, 2])


def test_candidates_are_relative_to_the_committed_text() -> None:
    drafting = session(window=64)
    expand(drafting, chain(10, 11, probability=0.5))
    drafting.commit(Commit(7, 0, [10], window=64))
    assert drafting.candidates(8) == [(pytest.approx(0.5), 2), (pytest.approx(0.5), 1)]


def test_no_message_is_longer_than_the_wire_allows() -> None:
    drafting = session(window=MAX_WINDOW, max_tokens=1000)
    expand(drafting, fan((10, 0.5), (11, 0.5)))
    sizes = [
        len(d.tokens)
        for d in drafting.add_proposals(
            [(1, chain(*range(200, 260), probability=1.0)), (2, chain(*range(300, 360), probability=1.0))]
        )
    ]
    assert sizes == [60, 60]


def test_a_confident_chain_is_drafted_on_from_its_end() -> None:
    drafting = session()
    expand(drafting, chain(10, 11, 12))
    assert context(drafting) == [*PROMPT, 10, 11, 12]


def test_an_incomplete_answer_is_used_and_asked_for_again() -> None:
    drafting = session()
    assert expand(drafting, INCOMPLETE) is None
    assert context(drafting) == PROMPT
    half = Proposal((10,), (-1,), (0.3,), complete=False)
    assert expand(drafting, half) is not None
    assert context(drafting) == PROMPT
    again = expand(drafting, fan((10, 0.6), (11, 0.3)))
    assert again is not None
    assert (again.first, again.tokens, again.parents) == (2, [11], [0]), "a node sent already is not sent again"


def test_what_hangs_below_a_known_node_is_added_there() -> None:
    drafting = session()
    expand(drafting, Proposal((10,), (-1,), (0.3,), complete=False))
    draft = expand(drafting, chain(10, 20, 30))
    assert draft is not None
    assert (draft.tokens, draft.parents) == ([20, 30], [1, 2])


@pytest.mark.parametrize("window", [1, 3, 8, MAX_WINDOW])
def test_the_window_is_never_passed_and_the_most_confident_come_first(window: int) -> None:
    drafting = session(window=window)
    seen = 0
    while drafting.next_request() is not None:
        expand(drafting, fan((10 + seen, 0.9), (50 + seen, 0.95), (90 + seen, 0.05)))
        seen += 1
        assert len(drafting.tree) <= window
    assert len(drafting.tree) == window
    assert 50 in drafting.tree.node(0).children


def test_a_commit_opens_the_window_again_and_may_close_it() -> None:
    drafting = session(window=2)
    expand(drafting, chain(10, 11))
    assert drafting.next_request() is None
    drafting.commit(Commit(7, 0, [10], window=2))
    assert context(drafting) == [*PROMPT, 10, 11]
    drafting.commit(Commit(7, 1, [11], window=0))
    assert drafting.next_request() is None


def test_improbable_nodes_are_neither_sent_nor_expanded_until_a_commit_makes_them_probable() -> None:
    drafting = session(window=64)
    while drafting.next_request() is not None:
        expand(drafting, fan((10, 0.3)))
    assert len(drafting.tree) == 3, "0.3 ** 4 is below the least path"
    [draft] = drafting.commit(Commit(7, 0, [10], window=64))
    assert (draft.first, draft.tokens, draft.parents) == (4, [10], [3]), "known already, so no drafter is asked"
    assert context(drafting) == [*PROMPT, 10, 10, 10, 10]


def test_behind_the_committed_text_the_most_likely_token_is_sent_however_improbable() -> None:
    draft = expand(session(), fan((10, 0.003), (11, 0.002)))
    assert draft is not None
    assert draft.tokens == [10]


def test_what_the_window_left_out_comes_when_it_opens() -> None:
    drafting = session(window=2)
    draft = expand(drafting, Proposal((10, 11, 12, 13), (-1, -1, 0, 2), (0.6, 0.3, 0.9, 0.9)))
    assert draft is not None
    assert draft.tokens == [10, 12]
    drafts = drafting.commit(Commit(7, 0, [], window=3))
    assert [(draft.tokens, draft.parents) for draft in drafts] == [([13], [2])]
    drafts = drafting.commit(Commit(7, 0, [], window=8))
    assert [(draft.tokens, draft.parents) for draft in drafts] == [([11], [0])]
    assert drafting.commit(Commit(7, 0, [], window=9)) == []


def test_what_was_held_back_below_a_committed_path_still_comes() -> None:
    drafting = session(window=1)
    expand(drafting, chain(10, 11, 12, 13))
    [draft] = drafting.commit(Commit(7, 0, [10], window=2))
    assert (draft.tokens, draft.parents) == ([11, 12], [1, 2])
    assert context(drafting) is None
    [draft] = drafting.commit(Commit(7, 1, [11], window=2))
    assert (draft.tokens, draft.parents) == ([13], [3])


def test_all_that_was_held_back_below_a_node_comes() -> None:
    drafting = session()
    expand(drafting, fan((10, 0.05)))
    expand(drafting, Proposal((20,), (-1,), (0.3,), complete=False))
    expand(drafting, fan((21, 0.35)))
    [draft] = drafting.commit(Commit(7, 0, [10], window=8))
    assert sorted(draft.tokens) == [20, 21]


def test_what_is_remembered_of_nodes_that_are_gone_is_nothing() -> None:
    drafting = session(max_tokens=1000)
    for at in range(300):
        while drafting.next_request() is not None:
            expand(drafting, fan((10, 0.5), (11, 0.3), (12, 0.1)))
        drafting.commit(Commit(7, at, [10], window=8))
    assert drafting.tree.epoch == 1
    assert len(drafting._uncovered) <= MAX_WINDOW
    assert len(drafting._held_back) <= MAX_WINDOW


def test_what_was_held_back_is_forgotten_with_its_place() -> None:
    drafting = session(window=1)
    expand(drafting, fan((10, 0.6), (11, 0.3)))
    assert drafting.commit(Commit(7, 0, [10], window=8)) == []
    drafting = session(window=1)
    expand(drafting, fan((10, 0.6), (11, 0.3)))
    assert drafting.commit(Commit(7, 0, [12], window=8)) == []
    assert drafting.commit(Commit(7, 1, [], window=8)) == []


def test_nothing_is_drafted_past_max_tokens_or_the_end_of_the_text() -> None:
    drafting = session(max_tokens=3)
    expand(drafting, chain(10, 11, 12, 13, 14))
    assert len(drafting.tree) == 3
    assert context(drafting) == [*PROMPT, 10], "the last token is there, a sibling of it may still come"
    drafting.commit(Commit(7, 0, [10, 11, 12], window=8))
    assert drafting.next_request() is None
    drafting = session(eos=(11,))
    expand(drafting, chain(10, 11, 12, 13))
    assert [node.token for node in drafting.tree.live_nodes()][1:] == [10, 11]
    seen = []
    while drafting.next_request() is not None:
        seen.append(context(drafting))
        expand(drafting, Proposal())
    assert [*PROMPT, 10, 11] not in seen


def test_a_mismatch_plants_behind_the_committed_text() -> None:
    drafting = session()
    expand(drafting, chain(10, 11, 12))
    drafting.commit(Commit(7, 0, [10, 99], window=8))
    wanted = drafting.next_request()
    assert wanted is not None
    assert wanted[0] == 0
    assert wanted[1].context == [*PROMPT, 10, 99]
    assert wanted[1].output_index == 2
    [draft] = drafting.add_proposals([(0, chain(30))])
    assert (draft.epoch, draft.at, draft.first) == (2, 2, 1)


def test_a_hit_keeps_what_was_drafted_below() -> None:
    drafting = session()
    expand(drafting, chain(10, 11, 12))
    drafting.commit(Commit(7, 0, [10, 11], window=8))
    assert len(drafting.tree) == 1
    draft = expand(drafting, chain(13))
    assert draft is not None
    assert (draft.epoch, draft.at, draft.first, draft.parents) == (1, 0, 4, [3])


def test_it_begins_from_what_is_committed_already() -> None:
    wanted = session(committed=(10, 11)).next_request()
    assert wanted is not None
    assert wanted[1].context == [*PROMPT, 10, 11]
    assert wanted[1].output_index == 2


def test_a_commit_out_of_order_is_an_error() -> None:
    with pytest.raises(ValueError, match="commit at 5"):
        session().commit(Commit(7, 5, [1], window=8))
