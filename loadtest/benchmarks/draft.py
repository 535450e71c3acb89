"""`bench draft`: tokens per verify of each drafter on 60 held-out prompts of six kinds, and the cost of drafting.

The shipped draft model runs with torch, and exported to ONNX with ONNX Runtime (drafts/).

The target answers every prompt greedily, and twice at temperature 0.7 with different seeds. Then each drafter drafts
for all chats at once with the agent's own sessions: before every verify it fills its window of NODES nodes, and the
verify accepts what agrees with the text. This is the quality of trees when drafting takes no time; `bench link` adds
time. The prompts are those that `edgedraft distill` holds out (edge_agent/distill/prompts.py).

On a part of them the same draft model drafts as a GGUF file in llama.cpp's server over HTTP, beside torch.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from transformers import AutoTokenizer

from edge_agent.distill.prompts import KINDS, PromptMaker
from edge_agent.drafters.interface import CombinedDrafter, Drafter, DraftRequest, first_chain
from edge_agent.drafters.loading import load_drafters
from edge_agent.drafters.lookup.past_outputs import PastOutputsDrafter, PastOutputStore
from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from edge_agent.drafters.pytorch.draft_model import load_draft, shipped_draft
from edge_agent.drafters.pytorch.drafter import ModelDrafter
from edge_agent.drafting.draft_session import DraftSession
from edge_agent.settings import AgentSettings
from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from edgedraft.observability.progress import progress
from edgedraft.proposers.prompt_lookup import MatchRates
from edgedraft.runtime.device import pick_device, pick_dtype
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.wire import Commit, ModelCard, Open, Sampling
from loadtest.drafts.browser_drafter import browser_drafters
from loadtest.drafts.gguf_file import write_draft_gguf
from loadtest.drafts.llama_server import llama_server
from loadtest.drafts.runtimes import compare_runtimes, onnx_drafters
from loadtest.generation import generate_texts
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.simulator.playback import verify_recorded
from verifier.engine.interface import Request
from verifier.engine.target import load_target
from verifier.engine.transformers_engine import TransformersEngine
from verifier.engine_loop import warm_up
from verifier.scheduling.step_costs import StepCosts
from verifier.settings import VerifierSettings

PROMPTS = 10  # of each kind
TOKENS = 48
NODES = 16
SERVED = 12  # of the prompts, for the model server
SLOT_TOKENS = 1024  # of context in the model server
FORWARD_SIZES = (1, 2, 4, 8)  # requests of one session in a draft forward
GREEDY, SAMPLED, REPEATED = "greedy", "temperature 0.7", "temperature 0.7, asked again"
SAMPLINGS = {
    GREEDY: Sampling(temperature=0.0),
    SAMPLED: Sampling(temperature=0.7, seed=1),
    REPEATED: Sampling(temperature=0.7, seed=1_000_001),
}


@dataclass(frozen=True)
class AnsweredPrompt:
    """A prompt and the target's answer, as token ids."""

    kind: str
    prompt: list[int]
    sampling: Sampling
    text: list[int]


@dataclass
class Score:
    """Totals over chats: tokens, verifies, draft nodes and accepted nodes."""

    tokens: int = 0
    verifies: int = 0
    nodes: int = 0
    accepted: int = 0


def draft(settings: BenchSettings) -> Result:
    """Prompt lookup, draft model and both; greedy and sampled, with coupled noise and without; with past outputs."""
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

    def model_drafter(coupled: bool = True) -> Drafter:
        return ModelDrafter(packed, 8192, card.vocab_size, head_ids, coupled)

    def past_drafter() -> Drafter:
        store = PastOutputStore(1 << 18)
        for chat in chats[SAMPLED]:
            store.add(chat.text)
        return PastOutputsDrafter(store, MatchRates())

    with tempfile.TemporaryDirectory() as exported:
        onnx = onnx_drafters(folder, Path(exported), card.vocab_size, settings.threads)
        runtimes = _compare_runtimes(
            {f"torch, {dtype}".replace("torch.", ""): model_drafter(), **onnx}, Path(exported), chats, settings.threads
        )
    on_cpu = next(drafter for name, drafter in onnx.items() if ", cpu," in name)
    sides: list[tuple[str, str, list[Drafter]]] = [
        ("prompt lookup", GREEDY, [PromptLookupDrafter()]),
        ("draft model", GREEDY, [model_drafter()]),
        ("both", GREEDY, [PromptLookupDrafter(), model_drafter()]),
        ("prompt lookup", SAMPLED, [PromptLookupDrafter()]),
        ("draft model, not coupled", SAMPLED, [model_drafter(coupled=False)]),
        ("draft model", SAMPLED, [model_drafter()]),
        ("both", SAMPLED, [PromptLookupDrafter(), model_drafter()]),
        ("both", REPEATED, [PromptLookupDrafter(), model_drafter()]),
        ("both and past outputs", REPEATED, [PromptLookupDrafter(), past_drafter(), model_drafter()]),
        ("draft model, ONNX Runtime", GREEDY, [on_cpu]),
        ("draft model, ONNX Runtime", SAMPLED, [on_cpu]),
    ]
    scores: list[tuple[str, str, dict[str, Score]]] = []
    with progress("drafting", len(sides), "sides") as advance:
        for name, how, drafters in sides:
            scores.append((name, how, score(CombinedDrafter(drafters), chats[how])))
            advance(note=f"{name}, {how}")
    forwards = {n: _forward_seconds(model_drafter(), chats[GREEDY][:6], n) for n in FORWARD_SIZES}
    forward = forwards[1]
    rows = [_row(name, how, found) for name, how, found in scores]
    return Result(
        f"tokens per verify of trees of {NODES} nodes, on {len(chats[GREEDY])} held-out prompts",
        rows,
        {
            "draft_model_over_prompt_lookup_greedy": _ratio(rows, 1, 0),
            "both_over_draft_model_greedy": _ratio(rows, 2, 1),
            "coupled_over_not_coupled_at_0.7": _ratio(rows, 5, 4),
            "past_outputs_over_without_asked_again": _ratio(rows, 8, 7),
            "onnx_over_torch_greedy": _ratio(rows, 9, 1),
            "onnx_over_torch_at_0.7": _ratio(rows, 10, 5),
            "draft_forward_over_target_step": forward / step,
        },
        {
            "prompts": len(chats[GREEDY]),
            "tokens": TOKENS,
            "nodes": NODES,
            "dtype": settings.dtype,
            "draft_dtype": str(dtype),
            "threads": settings.threads,
            "draft_forward_ms": 1e3 * forward,
            "step_ms": 1e3 * step,
        },
        [
            f"a draft forward {1e3 * forward:.1f} ms, a step of the target {1e3 * step:.1f} ms, one session",
            "by kind: tokens per verify; acceptance: share of draft nodes that were accepted",
        ],
        [
            Result(
                "a draft forward by the positions of one session's tree that it takes",
                [
                    {"positions": n, "ms": 1e3 * seconds, "over one": seconds / forward}
                    for n, seconds in forwards.items()
                ],
                {},
                {},
            ),
            runtimes,
            _model_server(model_drafter, chats, card.vocab_size),
        ],
    )


def _compare_runtimes(
    drafters: dict[str, Drafter], exported: Path, chats: Mapping[str, Sequence[AnsweredPrompt]], threads: int
) -> Result:
    """In this process and in a browser, on some greedy and some sampled answers."""
    texts = [(chat.prompt, chat.text, chat.sampling) for how in (GREEDY, SAMPLED) for chat in chats[how][::10]]
    with browser_drafters(exported, threads) as browsers:
        return compare_runtimes({**drafters, **browsers}, texts, threads)


def _model_server(
    torch_drafter: Callable[[], Drafter], chats: dict[str, list[AnsweredPrompt]], vocab_size: int
) -> Result:
    """The draft model as q8_0 in llama.cpp's server beside torch, one thread each, on the first SERVED prompts."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = write_draft_gguf(Path(folder), "q8_0")
        with llama_server(file, slots=SERVED + 1, kv_tokens=SLOT_TOKENS * (SERVED + 1)) as server:
            options = {"url": "-", "key": "-", "draft_url": server.url, "prompt_lookup": False, "past_outputs": False}
            drafters = load_drafters(AgentSettings.model_validate(options))

            def server_drafter() -> Drafter:
                return drafters.new_drafter(vocab_size)

            sides = {"torch": torch_drafter, "llama-server": server_drafter}
            with progress("a model server", 2 * len(sides), "sides") as advance:
                for how in (GREEDY, SAMPLED):
                    for name, new_drafter in sides.items():
                        found = score(new_drafter(), chats[how][:SERVED])["all"]
                        seconds, length = _chain_seconds(new_drafter(), chats[how][:6])
                        rows.append(
                            {
                                "drafter": name,
                                "answers": how,
                                "tokens per verify": found.tokens / found.verifies,
                                "acceptance": found.accepted / found.nodes,
                                "ms per drafted token": 1e3 * seconds,
                                "tokens of a call": length,
                            }
                        )
                        advance(note=f"{name}, {how}")
    cost = "ms per drafted token"
    return Result(
        f"the draft model by llama-server over HTTP (q8_0) and by torch, {SERVED} prompts",
        rows,
        {
            "server_over_torch_ms_greedy": rows[1][cost] / rows[0][cost],
            "server_over_torch_ms_sampled": rows[3][cost] / rows[2][cost],
            "server_over_torch_tokens_per_verify_greedy": rows[1]["tokens per verify"] / rows[0]["tokens per verify"],
        },
        {},
    )


def _chain_seconds(drafter: Drafter, chats: Sequence[AnsweredPrompt]) -> tuple[float, float]:
    """Wall seconds per token drafted down the first path, and tokens of a call, of one session at a time."""
    tokens, calls, seconds = 0, 0, 0.0
    for key, chat in enumerate(chats):
        drafter.open(key)
        text, output = [*chat.prompt], 0
        while output < len(chat.text):
            began = time.perf_counter()
            while not (
                proposal := drafter.propose([DraftRequest(key, text, len(text), output, chat.sampling)])[0]
            ).complete:
                pass
            chain = first_chain(proposal)[: len(chat.text) - output]
            if output and chain:
                tokens, calls, seconds = tokens + len(chain), calls + 1, seconds + time.perf_counter() - began
            # On along the target's text, which the draft may have missed.
            output += max(1, len(chain))
            text = [*chat.prompt, *chat.text[:output]]
        drafter.close(key)
    return seconds / max(1, tokens), tokens / max(1, calls)


def score(drafter: Drafter, chats: Sequence[AnsweredPrompt]) -> dict[str, Score]:
    """Drafts and verifies all chats at once; returns scores by kind and for "all"."""
    scores: dict[str, Score] = defaultdict(Score)
    sessions: dict[int, DraftSession] = {}
    for key, chat in enumerate(chats):
        drafter.open(key)
        sessions[key] = DraftSession(Open(key, chat.prompt, chat.sampling, len(chat.text), window=NODES), 1)
    while sessions:
        _fill(drafter, sessions)
        for key, session in list(sessions.items()):
            chat, generated = chats[key], len(session.tree.committed)
            tree = session.tree.select(NODES)
            tokens = list(verify_recorded(tree, chat.text, generated))
            for found in (scores[chat.kind], scores["all"]):
                found.tokens += len(tokens)
                found.verifies += 1
                found.nodes += len(tree)
                found.accepted += len(tokens) - 1
            session.commit(Commit(key, generated, tokens, NODES))
            if generated + len(tokens) == len(chat.text):
                drafter.close(key)
                del sessions[key]
    return scores


def _fill(drafter: Drafter, sessions: dict[int, DraftSession]) -> None:
    """Lets every session draft until its window is full or no node is worth it."""
    while points := {key: wanted for key, session in sessions.items() if (wanted := session.next_request())}:
        proposals = drafter.propose([point for _, point in points.values()])
        for (key, (node, _)), proposal in zip(points.items(), proposals, strict=True):
            sessions[key].add_proposals([(node, proposal)])


def _answers(target: PackedModel, card: ModelCard, name: str, sampling: Sampling) -> list[AnsweredPrompt]:
    tokenizer: Any = AutoTokenizer.from_pretrained(resolve_model(DEMO_MODEL))
    maker = PromptMaker(0, held_out=True)
    kinds = [kind for _ in range(PROMPTS) for kind in KINDS]
    requests: list[Request] = []
    for number, kind in enumerate(kinds):
        messages = [dict(message) for message in maker.make(kind).messages]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt = tuple(tokenizer.encode(text, add_special_tokens=False))
        seeded = msgspec.structs.replace(sampling, seed=sampling.seed + number)
        requests.append(Request(number, prompt, seeded, TOKENS, frozenset(card.eos)))
    engine = TransformersEngine(target, card.vocab_size, card.context_length, len(requests))
    with progress(f"the target's answers, {name}", len(requests), "answers") as advance:
        texts = generate_texts(engine, requests, len(requests), advance)
    return [
        AnsweredPrompt(kind, list(request.prompt), request.sampling, texts[request.session])
        for kind, request in zip(kinds, requests, strict=True)
    ]


def _step_seconds(target: PackedModel, card: ModelCard) -> float:
    costs = StepCosts()
    for _ in range(5):
        warm_up(TransformersEngine(target, card.vocab_size, card.context_length, 1), costs)
    return costs.seconds(1)


def _forward_seconds(drafter: Drafter, chats: Sequence[AnsweredPrompt], num_requests: int = 1) -> float:
    """Median wall seconds of a draft forward of one session, one token further at a time.

    The first request is for the end of the text, the others are for tokens that may follow it.
    """
    seconds: list[float] = []
    for key, chat in enumerate(chats):
        drafter.open(key)
        for at in range(len(chat.text)):
            text = [*chat.prompt, *chat.text[:at]]
            branches = [[], *([chat.text[at] ^ i] for i in range(num_requests - 1))]
            requests = [
                DraftRequest(key, text + branch, len(text), at + len(branch), chat.sampling) for branch in branches
            ]
            began = time.perf_counter()
            while not all(proposal.complete for proposal in drafter.propose(requests)):
                pass
            if at:
                seconds.append(time.perf_counter() - began)
        drafter.close(key)
    return median(seconds)


def _row(name: str, how: str, scores: dict[str, Score]) -> dict[str, Any]:
    total = scores["all"]
    return {
        "drafter": name,
        "answers": how,
        "all": total.tokens / total.verifies,
        **{kind: scores[kind].tokens / scores[kind].verifies for kind in KINDS},
        "acceptance": total.accepted / total.nodes if total.nodes else None,
    }


def _ratio(rows: Sequence[dict[str, Any]], over: int, under: int) -> float:
    return rows[over]["all"] / rows[under]["all"]
