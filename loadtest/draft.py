"""`bench draft`: what each drafter's trees are worth on 60 held-out prompts of six kinds, and what drafting takes.

The target answers every prompt greedily, and twice at temperature 0.7 with different seeds. Then each drafter drafts
for all chats at once, by the agent's own sessions: before every verify it fills its window of NODES nodes, and the
verify takes what is right. So this is what trees are worth if there is time to draw them; what time does to them,
`bench link` tells. The prompts are those that `edgedraft distill` keeps for measuring (prompts.py).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import msgspec
from transformers import AutoTokenizer

from edge_agent.distill.prompts import KINDS, PromptMaker
from edge_agent.drafters.draft_model import load_draft, shipped_draft
from edge_agent.drafters.interface import CombinedDrafter, Drafter, DraftRequest
from edge_agent.drafters.model import ModelDrafter
from edge_agent.drafters.past_outputs import PastOutputsDrafter, PastOutputStore
from edge_agent.drafters.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.draft_session import DraftSession
from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from edgedraft.observability.progress import progress
from edgedraft.proposers.prompt_lookup import MatchRates
from edgedraft.runtime.device import pick_device, pick_dtype
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.wire import Commit, ModelCard, Open, Sampling
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.virtual_link import verified
from verifier.engine.interface import Request, ScheduledSession
from verifier.engine.target import load_target
from verifier.engine.transformers_engine import TransformersEngine
from verifier.engine_loop import warm_up
from verifier.scheduling.step_costs import StepCosts
from verifier.settings import VerifierSettings

PROMPTS = 10  # of each kind
TOKENS = 48
NODES = 16
GREEDY, WARM, AGAIN = "greedy", "temperature 0.7", "temperature 0.7, asked again"
SAMPLINGS = {
    GREEDY: Sampling(temperature=0.0),
    WARM: Sampling(temperature=0.7, seed=1),
    AGAIN: Sampling(temperature=0.7, seed=1_000_001),
}


@dataclass(frozen=True)
class Chat:
    """A prompt of a kind, and the target's answer to it."""

    kind: str
    prompt: list[int]
    sampling: Sampling
    text: list[int]


@dataclass
class Score:
    """Over chats: tokens made, verifies they took, nodes drafted and nodes right."""

    tokens: int = 0
    verifies: int = 0
    nodes: int = 0
    right: int = 0


def draft(settings: BenchSettings) -> Result:
    """Prompt lookup, draft model and both; greedy and sampled, coupled and not; past outputs where asked again."""
    target, card = load_target(
        VerifierSettings.model_validate(
            {"device": "cpu", "dtype": settings.dtype, "threads": settings.threads, "kv_tokens": 32768}
        )
    )
    chats = {name: _answers(target, card, name, sampling) for name, sampling in SAMPLINGS.items()}
    step = _step_seconds(target, card)
    folder = shipped_draft(DEMO_MODEL)
    assert folder is not None
    dtype = pick_dtype("auto", pick_device("cpu"), exact=False)
    model, head_ids = load_draft(folder, resolve_model(DEMO_MODEL), dtype)
    packed = PackedModel(model, 32768, exact=False)

    def drafting(coupled: bool = True) -> Drafter:
        return ModelDrafter(packed, 8192, card.vocab_size, head_ids, coupled)

    def remembering() -> Drafter:
        store = PastOutputStore(1 << 18)
        for chat in chats[WARM]:
            store.add(chat.text)
        return PastOutputsDrafter(store, MatchRates())

    sides: list[tuple[str, str, list[Drafter]]] = [
        ("prompt lookup", GREEDY, [PromptLookupDrafter()]),
        ("draft model", GREEDY, [drafting()]),
        ("both", GREEDY, [PromptLookupDrafter(), drafting()]),
        ("prompt lookup", WARM, [PromptLookupDrafter()]),
        ("draft model, not coupled", WARM, [drafting(coupled=False)]),
        ("draft model", WARM, [drafting()]),
        ("both", WARM, [PromptLookupDrafter(), drafting()]),
        ("both", AGAIN, [PromptLookupDrafter(), drafting()]),
        ("both and past outputs", AGAIN, [PromptLookupDrafter(), remembering(), drafting()]),
    ]
    scores: list[tuple[str, str, dict[str, Score]]] = []
    with progress("drafting", len(sides), "sides") as advance:
        for name, how, drafters in sides:
            scores.append((name, how, score(CombinedDrafter(drafters), chats[how])))
            advance(note=f"{name}, {how}")
    look = _look_seconds(drafting(), chats[GREEDY][:6])
    rows = [_row(name, how, found) for name, how, found in scores]
    return Result(
        f"tokens per verify of trees of {NODES} nodes, on {len(chats[GREEDY])} held-out prompts",
        rows,
        {
            "draft_model_over_prompt_lookup_greedy": _ratio(rows, 1, 0),
            "both_over_draft_model_greedy": _ratio(rows, 2, 1),
            "coupled_over_not_coupled_at_0.7": _ratio(rows, 5, 4),
            "past_outputs_over_without_asked_again": _ratio(rows, 8, 7),
            "draft_look_over_target_step": look / step,
        },
        {
            "prompts": len(chats[GREEDY]),
            "tokens": TOKENS,
            "nodes": NODES,
            "dtype": settings.dtype,
            "draft_dtype": str(dtype),
            "threads": settings.threads,
            "look_ms": 1e3 * look,
            "step_ms": 1e3 * step,
        },
        [
            f"a look of the draft model {1e3 * look:.1f} ms, a step of the target {1e3 * step:.1f} ms, one session",
            "by kind: tokens per verify; acceptance: share of drafted nodes that were right",
        ],
    )


def score(drafter: Drafter, chats: Sequence[Chat]) -> dict[str, Score]:
    """Play all chats at once; by kind and under "all"."""
    scores: dict[str, Score] = defaultdict(Score)
    sessions: dict[int, DraftSession] = {}
    for key, chat in enumerate(chats):
        drafter.open(key)
        sessions[key] = DraftSession(Open(key, chat.prompt, chat.sampling, len(chat.text), window=NODES), 1)
    while sessions:
        _fill(drafter, sessions)
        for key, session in list(sessions.items()):
            chat, said = chats[key], len(session.tree.committed)
            tree = session.tree.select(NODES)
            made = verified(tree, chat.text, said)
            for found in (scores[chat.kind], scores["all"]):
                found.tokens += len(made)
                found.verifies += 1
                found.nodes += len(tree)
                found.right += len(made) - 1
            session.commit(Commit(key, said, made, NODES))
            if said + len(made) == len(chat.text):
                drafter.close(key)
                del sessions[key]
    return scores


def _fill(drafter: Drafter, sessions: dict[int, DraftSession]) -> None:
    """Let every session draft as long as it has something worth it."""
    while points := {key: wanted for key, session in sessions.items() if (wanted := session.next_request())}:
        answers = drafter.propose([point for _, point in points.values()])
        for (key, (node, _)), guesses in zip(points.items(), answers, strict=True):
            sessions[key].add_proposal(node, guesses)


def _answers(target: PackedModel, card: ModelCard, name: str, sampling: Sampling) -> list[Chat]:
    tokenizer: Any = AutoTokenizer.from_pretrained(resolve_model(DEMO_MODEL))
    maker = PromptMaker(0, held_out=True)
    chats: list[Chat] = []
    for number, kind in enumerate(kind for _ in range(PROMPTS) for kind in KINDS):
        turns = [dict(message) for message in maker.make(kind).messages]
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = tokenizer.encode(text, add_special_tokens=False)
        chats.append(Chat(kind, ids, msgspec.structs.replace(sampling, seed=sampling.seed + number), []))
    engine = TransformersEngine(target, card.vocab_size, card.context_length, len(chats))
    eos = frozenset(card.eos)
    left = {
        key: engine.open(Request(key + 1, tuple(chat.prompt), chat.sampling, TOKENS, eos))
        for key, chat in enumerate(chats)
    }
    with progress(f"the target's answers, {name}") as advance:
        while left:
            room, work = 512, []
            for key, unseen in left.items():
                if rows := min(unseen, room):
                    work.append(ScheduledSession(key + 1, rows))
                    room -= rows
            for made in engine.step(work):
                key = made.session - 1
                chats[key].text.extend(made.tokens)
                left[key] = made.num_uncomputed
                if made.finish:
                    engine.close(made.session)
                    del left[key]
            advance()
    return chats


def _step_seconds(target: PackedModel, card: ModelCard) -> float:
    costs = StepCosts()
    for _ in range(5):
        warm_up(TransformersEngine(target, card.vocab_size, card.context_length, 1), costs)
    return costs.seconds(1)


def _look_seconds(drafter: Drafter, chats: Sequence[Chat]) -> float:
    """One session, one token further at a time."""
    took: list[float] = []
    for key, chat in enumerate(chats):
        drafter.open(key)
        for at in range(len(chat.text)):
            context = [*chat.prompt, *chat.text[:at]]
            began = time.perf_counter()
            while not drafter.propose([DraftRequest(key, context, len(context), at, chat.sampling)])[0].complete:
                pass
            if at:
                took.append(time.perf_counter() - began)
        drafter.close(key)
    return median(took)


def _row(name: str, how: str, scores: dict[str, Score]) -> dict[str, Any]:
    total = scores["all"]
    return {
        "drafter": name,
        "answers": how,
        "all": total.tokens / total.verifies,
        **{kind: scores[kind].tokens / scores[kind].verifies for kind in KINDS},
        "acceptance": total.right / total.nodes if total.nodes else None,
    }


def _ratio(rows: Sequence[dict[str, Any]], over: int, under: int) -> float:
    return rows[over]["all"] / rows[under]["all"]
