"""The engine over many steps and many prompts: no block leaks, no token changes, and the text is that of generate.

With EDGEDRAFT_THOROUGH=1: sixty thousand steps, an hour of sixteen sessions on the demo target, over a model of a few
thousand weights with the same block management; and a hundred prompts on the demo target. Otherwise a part of both.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.tree import DraftSlice
from loadtest.workloads import mixed_prompts
from tests.conftest import THOROUGH
from tests.support.tiny_llama import VOCAB
from tests.verifier.engine.test_transformers_engine import GREEDY, SAMPLED, engine_over, reference, request, tree_for
from verifier.engine.interface import Overloaded, ScheduledSession
from verifier.engine.transformers_engine import TransformersEngine

STEPS = 60_000 if THOROUGH else 2_500
TOKENS = 48
PROMPTS = 100 if THOROUGH else 10


@dataclass
class Session:
    """A session under test and its expected text."""

    right: list[int]
    text: list[int] = field(default_factory=list)


def drive(
    engine: TransformersEngine,
    running: dict[int, Session],
    dice: random.Random,
    draft: Callable[[list[int]], DraftSlice],
) -> set[int]:
    """One step over some sessions in random order, with some of their drafts; returns the finished ones."""
    keys = dice.sample(sorted(running), dice.randint(1, len(running)))
    work = []
    for key in keys:
        rest = running[key].right[len(running[key].text) :]
        work.append(
            ScheduledSession(key, dice.choice((1, 3, 16, 64)), draft(rest) if dice.random() < 0.6 else DraftSlice())
        )
    finished = set()
    for made in engine.step(work):
        running[made.session].text.extend(made.tokens)
        if made.finish:
            finished.add(made.session)
    return finished


@pytest.mark.long
@pytest.mark.timeout(3600 if THOROUGH else 600)
def test_an_hour_of_traffic_leaks_no_block_and_changes_no_token(tiny: Callable[[int], PackedModel]) -> None:
    dice = random.Random(8)
    model = tiny(1024)
    engine = engine_over(model, max_sessions=12)
    prompts = [random.Random(i % 5).choices(range(VOCAB), k=20 + 9 * i) for i in range(10)]
    texts = [
        (prompt, sampling, reference(prompt, sampling, TOKENS)) for prompt in prompts for sampling in (GREEDY, SAMPLED)
    ]
    running: dict[int, Session] = {}
    opened = done = cancelled = 0
    for step in range(STEPS):
        if dice.random() < 0.15 or not running:
            prompt, sampling, right = dice.choice(texts)
            known = dice.choice((0, 0, 0, dice.randrange(TOKENS)))  # some are resumed from another verifier
            opened += 1
            try:
                engine.open(
                    request(opened, prompt, sampling, TOKENS, committed=tuple(right[:known]), salt=dice.choice("ab"))
                )
                running[opened] = Session(right, right[:known])
            except Overloaded:
                pass
        for key in drive(engine, running, dice, lambda rest: tree_for(rest, dice)):
            assert running[key].text == running[key].right
            engine.close(key)
            del running[key]
            done += 1
        if running and dice.random() < 0.03:
            key = dice.choice(sorted(running))
            assert running[key].text == running[key].right[: len(running[key].text)]
            engine.close(key)
            del running[key]
            cancelled += 1
        if step % 2500 == 2499:
            for key in running:
                engine.close(key)
            running.clear()
            assert engine.capacity().free_kv_tokens == engine.capacity().kv_tokens
            assert engine.capacity().free_sessions == 12
    assert done > STEPS / 100
    assert cancelled > STEPS / 100


@pytest.mark.long
@pytest.mark.timeout(3600 if THOROUGH else 600)
def test_many_prompts_in_any_mix_give_generates_text(demo_target: PackedModel) -> None:
    folder = ensure_demo_model()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    asked = [
        f"{opening}{prompt.text}"
        for opening in ("", "Briefly: ", "In one sentence. ", "Again, ", "Please. ")
        for prompt in mixed_prompts()
    ]
    ids: list[list[int]] = []
    for text in asked[:PROMPTS]:
        turn = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        ids.append(tokenizer.encode(rendered, add_special_tokens=False))
    tokens = 16
    sessions = {}
    for key, prompt in enumerate(ids, 1):
        with torch.inference_mode():
            made = plain.generate(  # type: ignore[operator]
                torch.tensor([prompt]), max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        sessions[key] = Session(made[0, len(prompt) :].tolist())

    dice = random.Random(3)
    engine = engine_over(demo_target, max_sessions=16)
    waiting, running = list(sessions), {}
    while waiting or running:
        while waiting and len(running) < 16 and dice.random() < 0.5:
            key = waiting.pop(0)
            engine.open(request(key, ids[key - 1], GREEDY, tokens, salt=str(key)))
            running[key] = sessions[key]
        if not running:
            continue
        for key in drive(engine, running, dice, lambda rest: chain_for(rest, dice)):
            engine.close(key)
            del running[key]
    different = [key for key, session in sessions.items() if session.text != session.right]
    assert different == []


def chain_for(right: list[int], dice: random.Random) -> DraftSlice:
    """A chain that follows `right` for a while and then does not."""
    depth = dice.randint(0, 5)
    tokens = (*right[:depth], 7)
    count = len(tokens)
    return DraftSlice(tokens, tuple(range(-1, count - 1)), (0,) * count, tuple(range(1, count + 1)))
