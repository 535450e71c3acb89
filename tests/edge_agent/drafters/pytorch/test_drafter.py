"""The model drafter proposes what its model would write alone, whatever its KV cache went through before."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from edge_agent.drafters.forwards import schedule
from edge_agent.drafters.interface import INCOMPLETE, NO_PROPOSAL, DraftRequest
from edge_agent.drafters.proposals.from_logits import MIN_SIBLING_PROBABILITY
from edge_agent.drafters.pytorch.drafter import ModelDrafter
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.sampling.sampler import propose_tokens, sample_next
from edgedraft.sampling.token_counts import TokenCounts
from edgedraft.wire import Sampling
from tests.edge_agent.tiny_drafter import GREEDY, WARM, Forwards, complete, fresh, point, tiny_drafter
from tests.support.tiny_llama import VOCAB, greedy_text, plain_tiny_llama, sampled_text, tiny_llama

PROMPT = [5, 17, 80, 3, 44, 21, 9]


def assert_fresh(drafter: ModelDrafter, prompt: Sequence[int], output: Sequence[int], session: int = 1) -> None:
    proposal = complete(drafter, point(prompt, output, session))
    tokens, probabilities = fresh([*prompt, *output])
    width = len(proposal.tokens)
    assert list(proposal.tokens) == tokens[:width]
    assert list(proposal.probabilities) == pytest.approx(probabilities[:width], abs=1e-4)


def test_going_down_its_best_path_is_the_models_own_greedy_text() -> None:
    drafter, output = tiny_drafter(), []
    drafter.open(1)
    for _ in range(40):
        output.append(complete(drafter, point(PROMPT, output)).tokens[0])
    assert output == greedy_text(PROMPT, 40)


def test_a_path_costs_one_row_a_token_and_a_miss_only_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = tiny_drafter()
    forwards = Forwards(drafter, monkeypatch)
    drafter.open(1)
    for output in ([], [1], [1, 2], [1, 2, 3], [1, 2, 9], [1, 2, 9], [1]):
        complete(drafter, point(PROMPT, output))
    assert forwards.rows == [[7], [1], [1], [1], [1], [1], [1]]


def test_after_any_jumps_the_proposals_are_those_of_a_fresh_forward() -> None:
    drafter, rng, output = tiny_drafter(), random.Random(3), list[int]()
    drafter.open(1)
    for _ in range(60):
        keep = rng.randint(max(0, len(output) - 20), len(output))
        output = output[:keep] + [rng.randrange(VOCAB) for _ in range(rng.randint(0, 9))]
        assert_fresh(drafter, PROMPT, output)


def test_points_of_several_sessions_share_one_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = tiny_drafter()
    forwards = Forwards(drafter, monkeypatch)
    prompts = {session: [session, *PROMPT[session:]] for session in (1, 2, 3)}
    for session in prompts:
        drafter.open(session)
    answers = drafter.propose([point(prompt, session=session) for session, prompt in prompts.items()])
    assert len(forwards.rows) == 1
    for proposal, prompt in zip(answers, prompts.values(), strict=True):
        assert proposal.tokens[0] == greedy_text(prompt, 1)[0]
    drafter.propose([point(prompt, [4], session) for session, prompt in prompts.items()])
    assert forwards.rows[1:] == [[1, 1, 1]]


def test_with_the_targets_noise_it_proposes_what_the_target_will_sample() -> None:
    drafter = tiny_drafter()
    drafter.open(1)
    text = sampled_text(PROMPT, 40, WARM)
    assert text != greedy_text(PROMPT, 40)
    proposed = [complete(drafter, point(PROMPT, text[:i], sampling=WARM)).tokens[0] for i in range(40)]
    assert proposed == text


def test_unlikely_siblings_are_left_out() -> None:
    drafter = tiny_drafter()
    drafter.open(1)
    widths = set()
    for length in range(1, 40):
        proposal = complete(drafter, point(list(range(length))))
        widths.add(len(proposal.tokens))
        assert proposal.parents == (-1,) * len(proposal.tokens)
        assert all(p >= MIN_SIBLING_PROBABILITY for p in proposal.probabilities[1:])
    assert len(widths) > 1


def test_long_contexts_come_in_chunks_and_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "MAX_ROWS", 64)
    drafter = tiny_drafter()
    forwards = Forwards(drafter, monkeypatch)
    long = [i % VOCAB for i in range(200)]
    drafter.open(1)
    drafter.open(2)
    complete(drafter, point(PROMPT, session=2))
    first, second = drafter.propose([point(long, session=1), point(PROMPT, [1], session=2)])
    assert first == INCOMPLETE
    assert second.tokens
    assert forwards.rows[-1] == [1, 63]
    assert_fresh(drafter, long, [])
    assert sum(sum(rows) for rows in forwards.rows) == len(long) + len(PROMPT) + 1


def test_slow_forwards_make_chunks_smaller_and_quick_ones_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = tiny_drafter()
    drafter.open(1)
    for seconds, rows in ((1.0, 32), (1.0, 16), (1.0, 16), (0.001, 32), (0.001, 64), (0.06, 64)):
        drafter._schedule.adapt_max_rows(drafter._schedule.max_rows, seconds)
        assert drafter._schedule.max_rows == rows
    drafter._schedule.adapt_max_rows(1, 9.0)
    assert drafter._schedule.max_rows == 64, "a forward that was not full tells nothing"


def test_a_full_cache_drops_who_was_drafted_longest_ago_and_runs_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = tiny_drafter(kv_tokens=96)
    forwards = Forwards(drafter, monkeypatch)
    prompts = {session: [(session * 31 + i) % VOCAB for i in range(40)] for session in (1, 2, 3)}
    for session, prompt in prompts.items():
        drafter.open(session)
        assert_fresh(drafter, prompt, [], session)
    assert_fresh(drafter, prompts[2], [5], 2)
    assert forwards.rows[-1] == [1], "it still was in the cache"
    assert_fresh(drafter, prompts[1], [5], 1)
    assert forwards.rows[-1] == [41], "it had been dropped"
    assert_fresh(drafter, prompts[2], [5, 6], 2)
    assert forwards.rows[-1] == [1]


def test_sessions_that_do_not_fit_together_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = tiny_drafter(kv_tokens=96)
    drafter._schedule.max_rows = 256
    forwards = Forwards(drafter, monkeypatch)
    prompts = {session: [(session * 31 + i) % VOCAB for i in range(60)] for session in (1, 2)}
    points = [point(prompt, session=session) for session, prompt in prompts.items()]
    for session in prompts:
        drafter.open(session)
    answers = drafter.propose(points)
    assert [proposal.complete for proposal in answers].count(True) == 1
    assert forwards.rows == [[60]]
    for session, prompt in prompts.items():
        assert_fresh(drafter, prompt, [], session)
    assert drafter._model.block_manager.num_free_tokens <= 96 - 60
    for session in prompts:
        drafter.close(session)
    assert drafter._model.block_manager.num_free_tokens == 96


def test_what_it_cannot_run_gets_no_proposal() -> None:
    drafter = tiny_drafter(kv_tokens=96, context_length=64)
    drafter.open(1)
    assert drafter.propose([point([1] * 64)])[0] != NO_PROPOSAL
    assert drafter.propose([point([1] * 65)])[0] == NO_PROPOSAL
    assert drafter.propose([point([])])[0] == NO_PROPOSAL
    foreign = tiny_drafter(vocab_size=500)
    foreign.open(1)
    assert foreign.propose([point([1, 300])])[0] == NO_PROPOSAL


def test_proposals_lie_in_the_targets_vocabulary() -> None:
    text, wide, narrow = greedy_text(PROMPT, 30), tiny_drafter(vocab_size=40), tiny_drafter(vocab_size=500)
    for drafter in (wide, narrow):
        drafter.open(1)
    assert max(text) >= 40
    for i in range(30):
        asked = point(PROMPT, text[:i], sampling=WARM)
        assert max(complete(wide, asked).tokens) < 40
        assert max(complete(narrow, asked).tokens) < VOCAB


def test_a_cut_head_proposes_the_tokens_that_its_columns_stand_for() -> None:
    ids = torch.tensor([3, 96, 20, 41, 5, 77, 60, 61])
    model = tiny_llama()
    head = torch.nn.Linear(48, len(ids), bias=False)
    head.weight = torch.nn.Parameter(model.lm_head.weight[ids].detach())
    model.set_output_embeddings(head)
    drafter = ModelDrafter(PackedModel(model, 512), 512, VOCAB, head_ids=ids)
    drafter.open(1)
    for i in range(1, 20):
        for sampling in (GREEDY, WARM):
            text = [(i * k + 3) % VOCAB for k in range(12)]
            with torch.inference_mode():
                logits = plain_tiny_llama()(torch.tensor([text])).logits[0, -1:]
            tokens, probabilities = propose_tokens(logits[:, ids], sampling, [4], 1, column_ids=ids, vocab_size=VOCAB)
            proposal = complete(drafter, point(text[:8], text[8:], sampling=sampling))
            assert proposal.tokens[0] == int(tokens)
            assert proposal.probabilities[0] == pytest.approx(float(probabilities), abs=1e-4)


def test_a_session_begun_again_or_closed_holds_no_blocks() -> None:
    drafter = tiny_drafter(kv_tokens=96)
    drafter.open(1)
    assert_fresh(drafter, PROMPT, [1, 2])
    drafter.open(1)
    assert drafter._model.block_manager.num_free_tokens == 96
    assert_fresh(drafter, PROMPT[::-1], [])
    drafter.close(1)
    drafter.close(1)
    assert drafter._model.block_manager.num_free_tokens == 96


@torch.inference_mode()
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_with_the_targets_penalties_it_proposes_what_the_target_will_choose(temperature: float) -> None:
    """Down a path that is not settled yet, after a miss, and in a session begun again."""
    sampling = Sampling(
        temperature=temperature, seed=5, frequency_penalty=0.8, presence_penalty=0.6, repetition_penalty=1.3,
        logit_bias={3: 2.5, 9: -4.0},
    )  # fmt: skip
    prompt, output = [5, 6, 7, 5, 6], []
    drafter = tiny_drafter()
    drafter.open(1)
    for index in range(24):
        settled = index // 5 * 5  # five tokens of path, then they are committed
        context = [*prompt, *output]
        [proposal] = drafter.propose([DraftRequest(1, context, len(prompt) + settled, index, sampling)])
        logits = plain_tiny_llama()(torch.tensor([context])).logits[0, -1:]
        assert proposal.tokens[0] == sample_next(logits, sampling, index, TokenCounts(sampling, prompt, output))
        if index % 7 == 3:
            drafter.propose([DraftRequest(1, [*context, 11, 12], len(prompt) + settled, index + 2, sampling)])
        output.append(proposal.tokens[0] if index % 6 else (proposal.tokens[0] + 1) % VOCAB)
    drafter.open(1)
    [proposal] = drafter.propose([DraftRequest(1, prompt, len(prompt), 0, sampling)])
    logits = plain_tiny_llama()(torch.tensor([prompt])).logits[0, -1:]
    assert proposal.tokens[0] == sample_next(logits, sampling, 0, TokenCounts(sampling, prompt))
