"""Draft trees in the KV cache: what is proposed at a node is what a fresh forward proposes, and rows are run once."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from edge_agent.drafters.forwards import schedule
from edge_agent.drafters.forwards.session_cache import common_prefix
from edge_agent.drafters.interface import INCOMPLETE, DraftRequest, Proposal
from edge_agent.drafters.pytorch.draft_model import load_draft, shipped_draft
from edge_agent.drafters.pytorch.drafter import ModelDrafter
from edgedraft.local.demo_model import DEMO_MODEL, ensure_demo_model
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.wire import Sampling
from tests.edge_agent.tiny_drafter import GREEDY, WARM, Forwards, fresh, tiny_drafter
from tests.support.tiny_llama import VOCAB

PROMPT = [5, 17, 80, 3, 44, 21, 9]
PENALISED = Sampling(temperature=0.0, frequency_penalty=0.7, repetition_penalty=1.2)


def at(
    path: Sequence[int] = (), committed: Sequence[int] = (), session: int = 1, sampling: Sampling = GREEDY
) -> DraftRequest:
    """The request at the end of a drafted path behind PROMPT and the committed output."""
    text = [*PROMPT, *committed]
    return DraftRequest(session, [*text, *path], len(text), len(committed) + len(path), sampling)


def assert_equal(proposal: Proposal, tokens: Sequence[int], probabilities: Sequence[float]) -> None:
    width = len(proposal.tokens)
    assert width
    assert proposal.tokens == tuple(tokens[:width])
    assert proposal.probabilities == pytest.approx(probabilities[:width], abs=1e-4)


def assert_fresh(proposal: Proposal, request: DraftRequest) -> None:
    assert_equal(proposal, *fresh(request.context, request.sampling, request.output_index))


class RandomTree:
    """One session's text and the nodes of its tree as paths, which grow, are requested, and are committed."""

    def __init__(self, number: int, rng: random.Random, sampling: Sampling, prompt: int) -> None:
        self.number, self.rng, self.sampling = number, rng, sampling
        self.text = [rng.randrange(VOCAB) for _ in range(prompt)]
        self.num_prompt = prompt
        self.paths: list[tuple[int, ...]] = [()]

    def requests(self) -> list[DraftRequest]:
        for _ in range(self.rng.randint(0, 4)):
            path = (*self.rng.choice(self.paths[-12:]), self.rng.randrange(VOCAB))
            if path not in self.paths:
                self.paths.append(path)
        chosen = self.rng.sample(self.paths, min(len(self.paths), self.rng.randint(1, 8)))
        index = len(self.text) - self.num_prompt
        return [
            DraftRequest(self.number, [*self.text, *path], len(self.text), index + len(path), self.sampling)
            for path in chosen
        ]

    def commit(self) -> None:
        """Commit part of a path, after which a node follows, or a token that was not drafted."""
        path = self.rng.choice(self.paths)
        hit = path[: self.rng.randint(0, len(path))]
        if self.rng.random() < 0.3:
            hit = (*hit, self.rng.randrange(VOCAB), self.rng.randrange(VOCAB))
        self.text += hit
        self.paths = [p[len(hit) :] for p in self.paths if p[: len(hit)] == hit] or [()]


@pytest.mark.parametrize(("kv_tokens", "max_rows"), [(2048, 64), (160, 64), (2048, 16), (112, 16)])
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "temperature 0.8"])
def test_over_random_trees_all_proposals_are_those_of_a_fresh_forward(
    kv_tokens: int, max_rows: int, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits that hit and miss, three sessions that evict each other, and prefill in chunks among them."""
    monkeypatch.setattr(schedule, "MAX_ROWS", max_rows)
    drafter, rng = tiny_drafter(kv_tokens=kv_tokens), random.Random(kv_tokens + max_rows)
    drafter._schedule.max_rows = max_rows
    trees = [RandomTree(number, rng, sampling, prompt) for number, prompt in ((1, 5), (2, 40), (3, 1))]
    for tree in trees:
        drafter.open(tree.number)
    several = 0
    for _ in range(80):
        if rng.random() < 0.1:
            tree = rng.choice(trees)
            drafter.open(tree.number)
        for tree in trees:
            if rng.random() < 0.4 and len(tree.text) < 70:
                tree.commit()
        requests = [r for tree in rng.sample(trees, rng.randint(1, 3)) for r in tree.requests()]
        proposals = drafter.propose(requests)
        for request, proposal in zip(requests, proposals, strict=True):
            if proposal.complete:
                assert_fresh(proposal, request)
        several += sum(proposal.complete for proposal in proposals) > 3
        [again] = drafter.propose(requests[:1])
        if again.complete:
            assert_fresh(again, requests[0])
    assert several > 10
    for tree in trees:
        drafter.close(tree.number)
    assert drafter._model.block_manager.num_free_tokens == kv_tokens


@pytest.mark.parametrize("numbers", [(1,), (1, 2)], ids=["one session", "two sessions"])
def test_every_request_is_completed_in_the_end(numbers: Sequence[int]) -> None:
    """Also where the KV cache holds one session at a time, and not all of its tree."""
    drafter, rng = tiny_drafter(kv_tokens=64), random.Random(1)
    trees = [RandomTree(number, rng, GREEDY, 30) for number in numbers]
    for tree in trees:
        drafter.open(tree.number)
    for _ in range(40):
        waiting = [r for tree in trees for r in tree.requests()]
        for _ in range(100):
            proposals = drafter.propose(waiting)
            waiting = [r for r, proposal in zip(waiting, proposals, strict=True) if not proposal.complete]
            if not waiting:
                break
        assert not waiting


def test_with_penalties_each_request_is_penalised_by_its_own_path() -> None:
    alone, together = tiny_drafter(), tiny_drafter()
    for drafter in (alone, together):
        drafter.open(1)
    requests = [at(path, [8, 8, 9], sampling=PENALISED) for path in ([], [4], [4, 5], [6], [6, 6, 6])]
    expected = [alone.propose([request])[0] for request in requests]
    for one, other in zip(together.propose(requests), expected, strict=True):
        assert_equal(one, other.tokens, other.probabilities)


def test_the_shipped_draft_proposes_for_a_tree_what_it_proposes_position_by_position() -> None:
    folder, target = shipped_draft(DEMO_MODEL), ensure_demo_model()
    assert folder is not None
    model, head_ids = load_draft(folder, target)
    packed = PackedModel(model, 1024)
    drafter = ModelDrafter(packed, 512, 49152, head_ids)
    rng = random.Random(2)
    text = [rng.randrange(1000, 40000) for _ in range(30)]
    paths = [[], [198], [198, 28], [198, 260], [198, 28, 506], [314], [314, 253], [198, 260, 99]]
    requests = [DraftRequest(1, [*text, *path], len(text), len(path), WARM) for path in paths]
    drafter.open(1)
    drafter.propose(requests[:1])
    found = [*drafter.propose(requests[:5]), *drafter.propose(requests[5:])]
    drafter.close(1)
    for request, proposal in zip(requests, found, strict=True):
        drafter.open(1)
        [alone] = drafter.propose([request])
        drafter.close(1)
        assert_equal(proposal, alone.tokens, alone.probabilities)


# Rows


def test_each_node_is_run_once_whatever_branch_is_requested_next(monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = tiny_drafter()
    forwards = Forwards(drafter, monkeypatch)
    drafter.open(1)
    drafter.propose([at()])
    drafter.propose([at([1]), at([2]), at([3])])
    drafter.propose([at([2, 4]), at([1, 5])])
    drafter.propose([at([2, 4, 6])])
    drafter.propose([at([1, 5, 7]), at([2, 4, 6, 8]), at([3, 9])])
    assert forwards.rows == [[7], [3], [2], [1], [3]]


def test_a_shared_path_is_run_once_in_a_forward_and_a_known_node_again_for_its_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drafter = tiny_drafter()
    forwards = Forwards(drafter, monkeypatch)
    drafter.open(1)
    drafter.propose([at()])
    requests = [at([1, 2, 3, 4]), at([1, 2, 3]), at([1, 2, 5]), at([1, 2, 5]), at()]
    for proposal, request in zip(drafter.propose(requests), requests, strict=True):
        assert_fresh(proposal, request)
    assert forwards.rows[-1] == [6], "four of the first path, one more of the third, and the root again"
    [proposal] = drafter.propose([at([1, 2])])
    assert_fresh(proposal, at([1, 2]))
    assert forwards.rows[-1] == [1]


def test_after_a_commit_the_nodes_below_it_are_kept_and_all_others_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = tiny_drafter()
    forwards = Forwards(drafter, monkeypatch)
    drafter.open(1)
    drafter.propose([at()])
    drafter.propose([at([1, 2, 3]), at([1, 4, 5]), at([6, 7])])
    assert forwards.rows[-1] == [7]
    requests = [at([2, 3, 8], [1]), at([4, 5, 9], [1])]
    for proposal, request in zip(drafter.propose(requests), requests, strict=True):
        assert_fresh(proposal, request)
    assert forwards.rows[-1] == [2]
    request = at([9], [1, 4, 5])
    assert_fresh(drafter.propose([request])[0], request)
    assert forwards.rows[-1] == [1], "it is in the cache and is run again for its logits"
    request = at([7], [1, 4, 6])
    assert_fresh(drafter.propose([request])[0], request)
    assert forwards.rows[-1] == [2], "a miss: its token and the one behind it"
    cache = drafter._schedule.sessions[1]
    assert cache.num_slots == len(request.context)


def test_a_commit_moves_only_the_rows_that_change_places(monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = tiny_drafter()
    moves: list[int] = []
    monkeypatch.setattr(drafter._model.block_manager, "copy_slots", lambda source, _: moves.append(len(source)))
    drafter.open(1)
    drafter.propose([at()])
    drafter.propose([at([1])])
    drafter.propose([at([1, 2])])
    drafter.propose([at([2, 3], [1])])
    drafter.propose([at([2, 4], [1])])
    assert not moves, "a path in order stays where it is"
    drafter.propose([at([5], [1, 2, 4])])
    assert moves == [1], "4 moves to the place of 3"


def test_branches_take_the_rows_that_other_sessions_first_requests_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "MAX_ROWS", 16)
    drafter = tiny_drafter()
    drafter._schedule.max_rows = 16
    forwards = Forwards(drafter, monkeypatch)
    drafter.open(1)
    drafter.open(2)
    drafter.propose([at()])
    branches = [at([token]) for token in range(8)]
    long = DraftRequest(2, [i % VOCAB for i in range(60)], 60, 0, GREEDY)
    *found, last = drafter.propose([*branches, long])
    assert forwards.rows[-1] == [1, 15]
    assert last == INCOMPLETE
    assert [proposal.complete for proposal in found] == [True] + [False] * 7
    assert all(proposal.complete for proposal in drafter.propose(branches))


def test_the_rows_of_a_session_are_bounded() -> None:
    drafter, rng = tiny_drafter(kv_tokens=4096), random.Random(4)
    drafter.open(1)
    path: list[int] = []
    for _ in range(150):
        path = [*path[: rng.randint(0, 20)], rng.randrange(VOCAB)]
        requests = [at([*path, rng.randrange(VOCAB), rng.randrange(VOCAB)]) for _ in range(4)]
        for proposal, request in zip(drafter.propose(requests), requests, strict=True):
            assert_fresh(proposal, request)
        assert drafter._schedule.sessions[1].num_rows <= schedule.MAX_KEPT_ROWS + 4 * 23


def test_a_session_evicted_in_the_forward_that_it_was_to_be_in_is_run_anew() -> None:
    """Of six blocks session 1 holds three and session 2 two; session 3, with the fewest rows, takes two."""
    drafter = tiny_drafter(kv_tokens=96)
    texts = {1: [1] * 40, 2: [i % VOCAB for i in range(20)], 3: [3] * 17}
    for session in texts:
        drafter.open(session)
    requests = {number: DraftRequest(number, text, len(text), 0, GREEDY) for number, text in texts.items()}
    drafter.propose([requests[2]])
    drafter.propose([requests[1]])
    longer = DraftRequest(2, [i % VOCAB for i in range(38)], 38, 0, GREEDY)
    for proposal, request in zip(drafter.propose([requests[3], longer]), (requests[3], longer), strict=True):
        assert_fresh(proposal, request)


def test_after_a_failed_forward_nothing_of_it_is_taken_for_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = tiny_drafter(kv_tokens=64)
    drafter.open(1)
    drafter.propose([at()])
    with monkeypatch.context() as broken:
        broken.setattr(drafter._model, "forward", lambda rows: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            drafter.propose([at([1, 2]), at([3]), at()])
    for requests in ([at([3])], [at([1, 2]), at([1])]):
        for proposal, request in zip(drafter.propose(requests), requests, strict=True):
            assert_fresh(proposal, request)
    drafter.close(1)
    assert drafter._model.block_manager.num_free_tokens == 64


def test_common_prefix() -> None:
    rng = random.Random(5)
    for _ in range(300):
        a = [rng.randrange(2) for _ in range(rng.randrange(12))]
        b = a[: rng.randrange(13)] + [rng.randrange(2) for _ in range(rng.randrange(4))]
        shared = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert common_prefix(a, b) == shared
