"""The embedded engine commits the reference text whatever is drafted, packed, evicted or cancelled meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch

from edgedraft.runtime.packed_model import PackedModel, SequenceRows
from edgedraft.tree import DraftSlice, DraftTree
from edgedraft.wire import Sampling
from tests.support.tiny_llama import VOCAB, sampled_text
from tests.support.triton_interpreter import runs_interpreted
from verifier.engine.interface import Overloaded, Request, RequestRejected, ScheduledSession, StepResult
from verifier.engine.transformers_engine import TransformersEngine

GREEDY = Sampling(temperature=0)
SAMPLED = Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.01, seed=11)


def engine_over(model: PackedModel, max_sessions: int = 64) -> TransformersEngine:
    vocab = model.model.config.get_text_config().vocab_size
    return TransformersEngine(model, vocab, 512, max_sessions)


def request(key: int, prompt: Sequence[int], sampling: Sampling = GREEDY, tokens: int = 40, **more: object) -> Request:
    return Request(key, tuple(prompt), sampling, tokens, frozenset(), **more)  # type: ignore[arg-type]


def prompt_of(seed: int, length: int = 20) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=length)


def reference(prompt: Sequence[int], sampling: Sampling, tokens: int) -> list[int]:
    return sampled_text(prompt, tokens, sampling)


def run(
    engine: TransformersEngine,
    texts: dict[int, list[int]],
    plan: Callable[[int, list[int]], ScheduledSession],
    limit: int = 2000,
) -> list[StepResult]:
    """Steps until every session of `texts` has finished; `plan` makes each one's work from its text so far."""
    left, seen = set(texts), []
    for _ in range(limit):
        for made in engine.step([plan(key, texts[key]) for key in sorted(left)]):
            texts[made.session].extend(made.tokens)
            seen.append(made)
            if made.finish or made.failure:
                left.discard(made.session)
                engine.close(made.session)
        if not left:
            return seen
    raise AssertionError("no end")


def tree_for(right: Sequence[int], dice: random.Random) -> DraftSlice:
    """A tree that follows `right` for a while, with wrong siblings and a wrong tail."""
    tree = DraftTree(64)
    parent, depth = 0, dice.randint(0, 6)
    for i in range(depth + 2):
        truth = right[i] if i < len(right) else 0
        wrong = (truth + dice.randint(1, VOCAB - 1)) % VOCAB
        children = [wrong, truth] if i < depth else [wrong]
        first = tree.next_id
        tree.add(1, 0, first, children, [parent] * len(children), [dice.randint(0, 5) for _ in children])
        parent = first + len(children) - 1
    return tree.select(16)


@pytest.mark.parametrize(
    "tiny",
    ["gathered", *(pytest.param(name, marks=runs_interpreted) for name in ("paged", "replayed"))],
    indirect=True,
)
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_any_mix_of_sessions_and_drafts_commits_the_reference_text(
    tiny: Callable[[int], PackedModel], sampling: Sampling
) -> None:
    dice = random.Random(5)
    engine = engine_over(tiny(2048))
    prompts = {key: prompt_of(key, 5 + 9 * key) for key in range(1, 6)}
    right = {key: reference(prompt, sampling, 40) for key, prompt in prompts.items()}
    for key, prompt in prompts.items():
        engine.open(request(key, prompt, sampling))
    texts: dict[int, list[int]] = {key: [] for key in prompts}

    def plan(key: int, text: list[int]) -> ScheduledSession:
        return ScheduledSession(
            key, dice.randint(1, 12), tree_for(right[key][len(text) :], dice) if key != 3 else DraftSlice()
        )

    seen = run(engine, texts, plan)
    assert texts == right
    assert max(made.accepted for made in seen) >= 3, "drafts were accepted"
    assert any(made.depth > made.accepted for made in seen), "and rejected"
    assert engine.capacity().free_kv_tokens == engine.capacity().kv_tokens


def test_greedy_text_is_that_of_generate_on_the_demo_target(demo_target: PackedModel) -> None:
    engine = engine_over(demo_target)
    prompts = {key: [504 + 31 * key, 253, 1000 + key, 260, 3581] for key in range(1, 5)}
    expected = {}
    demo_target.model.set_attn_implementation("sdpa")
    for key, prompt in prompts.items():
        made = demo_target.model.generate(  # type: ignore[operator]
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        expected[key] = made[0, len(prompt) :].tolist()
    demo_target.model.set_attn_implementation("edgedraft_paged")
    for key, prompt in prompts.items():
        engine.open(request(key, prompt, tokens=24))
    texts: dict[int, list[int]] = {key: [] for key in prompts}
    run(engine, texts, lambda key, _: ScheduledSession(key, 3))
    assert texts == expected


def test_a_full_cache_evicts_the_youngest_and_loses_no_token(tiny: Callable[[int], PackedModel]) -> None:
    engine = engine_over(tiny(128))
    prompts = {key: prompt_of(key, 30) for key in (1, 2, 3)}
    for key, prompt in prompts.items():
        engine.open(request(key, prompt))
    texts: dict[int, list[int]] = {key: [] for key in prompts}
    seen = run(engine, texts, lambda key, _: ScheduledSession(key, 64))
    assert any(not made.tokens and made.num_uncomputed > 1 for made in seen), "a session was evicted"
    assert texts == {key: reference(prompt, GREEDY, 40) for key, prompt in prompts.items()}
    assert engine.capacity().free_kv_tokens == engine.capacity().kv_tokens


def test_a_session_that_fills_the_cache_decodes_without_its_draft(
    tiny: Callable[[int], PackedModel],
) -> None:
    engine = engine_over(tiny(64))
    prompt, right = prompt_of(1, 24), reference(prompt_of(1, 24), GREEDY, 40)
    engine.open(request(1, prompt))
    texts: dict[int, list[int]] = {1: []}
    wrong = DraftSlice((0,) * 8, tuple(range(-1, 7)), (0,) * 8, tuple(range(1, 9)))
    run(engine, texts, lambda key, _: ScheduledSession(key, 64, wrong))
    assert texts[1] == right


def test_a_session_resumed_from_another_engine_continues_its_text(tiny: Callable[[int], PackedModel]) -> None:
    prompt, right = prompt_of(7), reference(prompt_of(7), SAMPLED, 40)
    engine = engine_over(tiny(512))
    engine.open(request(1, prompt, SAMPLED, committed=tuple(right[:17])))
    texts: dict[int, list[int]] = {1: []}
    run(engine, texts, lambda key, _: ScheduledSession(key, 64))
    assert texts[1] == right[17:]


def test_it_ends_at_an_eos_inside_an_accepted_draft(tiny: Callable[[int], PackedModel]) -> None:
    prompt = prompt_of(2)
    right = reference(prompt, SAMPLED, 40)
    end = next(i for i in range(3, 40) if right[i] not in right[:i])
    engine = engine_over(tiny(512))
    engine.open(Request(1, tuple(prompt), SAMPLED, 40, frozenset({right[end]})))
    chain = DraftSlice(tuple(right), tuple(range(-1, 39)), (0,) * 40, tuple(range(1, 41)))
    (made,) = engine.step([ScheduledSession(1, 64, chain)])
    assert (list(made.tokens), made.finish, made.accepted) == (right[: end + 1], "stop", end + 1)


def test_it_never_commits_past_max_tokens(tiny: Callable[[int], PackedModel]) -> None:
    prompt = prompt_of(3)
    right = reference(prompt, GREEDY, 20)
    engine = engine_over(tiny(512))
    engine.open(request(1, prompt, tokens=5))
    chain = DraftSlice(tuple(right), tuple(range(-1, 19)), (0,) * 20, tuple(range(1, 21)))
    (made,) = engine.step([ScheduledSession(1, 64, chain)])
    assert (list(made.tokens), made.finish) == (right[:5], "length")


def test_a_cancelled_session_frees_its_blocks_at_once(tiny: Callable[[int], PackedModel]) -> None:
    engine = engine_over(tiny(512))
    engine.open(request(1, prompt_of(1, 100)))
    engine.step([ScheduledSession(1, 64)])
    assert engine.capacity().free_kv_tokens < engine.capacity().kv_tokens
    engine.close(1)
    engine.close(1)
    assert engine.capacity().free_kv_tokens == engine.capacity().kv_tokens


@pytest.mark.parametrize(
    ("prompt", "tokens", "message"),
    [
        ([1] * 500, 40, "exceed"),
        ([], 4, "needs a prompt"),
        ([VOCAB], 4, "outside the vocabulary"),
        ([-1], 4, "outside the vocabulary"),
    ],
)
def test_invalid_requests_are_rejected(
    tiny: Callable[[int], PackedModel], prompt: list[int], tokens: int, message: str
) -> None:
    with pytest.raises(RequestRejected, match=message):
        engine_over(tiny(4096)).open(request(1, prompt, tokens=tokens))


def test_more_sessions_than_allowed_raise_overloaded(tiny: Callable[[int], PackedModel]) -> None:
    engine = engine_over(tiny(512), max_sessions=1)
    engine.open(request(1, [1, 2]))
    with pytest.raises(Overloaded):
        engine.open(request(2, [1, 2]))


def test_a_session_that_would_evict_another_is_not_started(tiny: Callable[[int], PackedModel]) -> None:
    engine = engine_over(tiny(512))
    engine.open(request(1, prompt_of(1, 300)))
    with pytest.raises(Overloaded, match="KV"):  # though nothing of the first one's prompt is in the cache yet
        engine.open(request(2, prompt_of(2, 300)))
    engine.step([ScheduledSession(1, 300)])
    with pytest.raises(Overloaded, match="KV"):
        engine.open(request(2, prompt_of(2, 300)))
    assert engine.open(request(3, prompt_of(3, 100))) == 100
    engine.close(1)
    assert engine.open(request(2, prompt_of(2, 300))) == 300


def test_each_token_is_computed_once(tiny: Callable[[int], PackedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(512)
    rows: list[int] = []
    forward = model.forward

    def counting(jobs: Sequence[SequenceRows]) -> torch.Tensor:
        rows.append(sum(len(job.tokens) for job in jobs))
        return forward(jobs)

    monkeypatch.setattr(model, "forward", counting)
    engine = engine_over(model)
    engine.open(request(1, prompt_of(1, 50), tokens=10))
    run(engine, {1: []}, lambda key, _: ScheduledSession(key, 64))
    assert rows == [50] + [1] * 9


def test_a_second_turn_reuses_the_first_ones_blocks_within_its_salt(tiny: Callable[[int], PackedModel]) -> None:
    engine = engine_over(tiny(1024))
    prompt = prompt_of(4, 50)
    engine.open(request(1, prompt, salt="a"))
    texts: dict[int, list[int]] = {1: []}
    run(engine, texts, lambda key, _: ScheduledSession(key, 64))
    second = [*prompt, *texts[1], 5, 6, 7]
    assert engine.open(request(2, second, salt="b")) == len(second)
    num_uncomputed = engine.open(request(3, second, salt="a"))
    assert num_uncomputed == len(second) - 80, "five full blocks of the 89 tokens that were computed"
    right = {2: reference(second, GREEDY, 40), 3: reference(second, GREEDY, 40)}
    texts = {2: [], 3: []}
    run(engine, texts, lambda key, _: ScheduledSession(key, 16))
    assert texts == right
