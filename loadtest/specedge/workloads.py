"""`bench specedge --workloads`: chats and an agent's work with the shipped draft, with and without prompt lookup.

An agent edits files and reads tools' results: much of what it writes is in its context already, and its requests share
long contexts, which are in the prefix cache here. Texts are the demo target's, drafts those of the demo pair's draft,
prompt lookup and past outputs. Time is that of computed hardware: an A100 with 32B and 1.7B, desktops with an RTX 4090.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoTokenizer

from edge_agent.drafters.interface import DraftRequest, Proposal, merge
from edge_agent.drafters.lookup.past_outputs import PastOutputsDrafter, PastOutputStore
from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from edgedraft.observability.progress import progress
from edgedraft.proposers.prompt_lookup import MatchRates
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.simulator.clock import Clock
from loadtest.simulator.draft_model import DraftModel, MemoizedDraftModel
from loadtest.simulator.load import Load, System, run, trial_load, warmup_for
from loadtest.simulator.profiles import LINKS, DeviceProfile, EdgeProfile, a100_steps, rtx_4090_forward
from loadtest.simulator.recorded_chats import RecordedChat, make_agent_chats, make_chats, record_texts, with_texts
from loadtest.simulator.recordings import Recording, read_recording, recording_file, write_recording
from loadtest.simulator.systems.datacenter_speculation import BOTH, LOOKUP, MODEL, DatacenterSpeculation
from loadtest.simulator.systems.edgedraft import DatacenterOnly, EdgeDraft
from loadtest.simulator.systems.rounds import DraftRounds
from loadtest.simulator.target import live_target, recorded_target
from loadtest.simulator.verifier import EDGE_LIMITS, LIMITS
from loadtest.specedge.preparation import GREEDY, KV_TOKENS
from loadtest.specedge.systems import SYSTEMS, Costs
from loadtest.specedge.tuning import tune_rounds, tune_speculation
from loadtest.workloads import mixed_prompts
from verifier.engine.target import load_target
from verifier.settings import VerifierSettings

CHATS, AGENT = "chat", "agent"
FIRST_AGENT_CHAT = 2000
TARGET, DRAFT, DRAFT_BITS = 32.8e9, 1.7e9, 4.5  # parameters of Qwen3's, and bits of the device's copy of the draft
STREAMS = (1, 16)
TOKENS, TOKENS_PER_STREAM = 800, 40  # measured
PAST_TOKENS = 1 << 16
WITHOUT, WITH = "model", "model, prompt lookup"
COMPARED = ("datacenter_only", "best_speculation", "rounds", "edgedraft")


@dataclass(frozen=True)
class Workload:
    """Requests with texts. `cached`: their prompts are in the prefix cache, since requests share their contexts."""

    name: str
    chats: Sequence[RecordedChat]
    cached: bool


def compare_workloads(settings: BenchSettings) -> Result:
    """Takes some minutes; the first run, which records texts and proposals, some more."""
    chats, eos, draft_model, save = _record(settings.dtype)
    workloads = [Workload(name, chats[name], cached=name == AGENT) for name in chats]
    accuracy = [accuracies(workload, draft_model) for workload in workloads]
    save()
    rows: list[dict[str, Any]] = []
    with progress("workloads", len(workloads) * 2 * len(STREAMS), "loads") as advance:
        for workload in workloads:
            for lookup in (False, True):
                for streams in STREAMS:
                    rates = measure(workload, draft_model, eos, streams, lookup, settings)
                    labels = {"workload": workload.name, "drafts": WITH if lookup else WITHOUT, "streams": streams}
                    rows.append(labels | {SYSTEMS[name]: rate for name, rate in rates.items()})
                    advance(note=f"{workload.name}, {streams} streams")
                    save()
    device = 1e3 * rtx_4090_forward(DRAFT, DRAFT_BITS)
    return Result(
        "tokens per second of the server by workload: the demo pair's texts and drafts, an A100's computed step costs",
        rows,
        {},
        {"model": DEMO_MODEL, "draft": draft_model.description, "dtype": settings.dtype},
        [f"devices with an RTX 4090, {device:.1f} ms per draft forward, 15 ms away; virtual time, greedy"],
        [Result("share of output tokens that the most probable draft token is", accuracy, {}, {})],
    )


def measure(
    workload: Workload,
    draft_model: DraftModel,
    eos: tuple[int, ...],
    streams: int,
    lookup: bool,
    settings: BenchSettings,
) -> dict[str, float]:
    """Tokens per second by system (COMPARED), with prompt lookup everywhere or nowhere."""
    chats, costs = workload.chats, Costs(a100_steps(TARGET), a100_steps(DRAFT))
    device = DeviceProfile("RTX 4090", rtx_4090_forward(DRAFT, DRAFT_BITS), "computed")
    edge = EdgeProfile(device, LINKS["fibre"], draft_model, prompt_lookup=lookup)
    target = recorded_target(chats, costs.steps.seconds, eos, cached=workload.cached)
    trial = trial_load(streams)
    drafts = (MODEL, LOOKUP, BOTH) if lookup else (MODEL,)
    plan, _ = tune_speculation(target, costs.steps, costs.forwards, draft_model, chats, trial, drafts)
    rounds = tune_rounds(target, costs.steps, edge, chats, trial, settings.round_nodes)
    limits = EDGE_LIMITS if lookup else LIMITS
    systems: Mapping[str, System] = {
        "datacenter_only": DatacenterOnly(Clock(), target, costs.steps),
        "best_speculation": DatacenterSpeculation(Clock(), target, costs.steps, costs.forwards, draft_model, plan),
        "rounds": DraftRounds(Clock(), target, costs.steps, edge, rounds),
        "edgedraft": EdgeDraft(Clock(), target, costs.steps, edge, limits=limits),
    }
    load = Load(streams, tokens=max(TOKENS, TOKENS_PER_STREAM * streams), warmup_tokens=4 * warmup_for(streams))
    return {name: run(systems[name], chats, load, seed=0).tokens_per_second for name in COMPARED}


def accuracies(workload: Workload, draft_model: DraftModel) -> dict[str, Any]:
    """By drafters: how many of the output tokens are the drafters' most probable one, given the text before them.

    Past outputs are those of the requests before, as on one user's device.
    """
    _propose_everywhere(workload.chats, draft_model)
    store, trust = PastOutputStore(PAST_TOKENS), MatchRates()
    right: dict[str, int] = dict.fromkeys(("prompt_lookup", "model", "model_and_lookup", "and_past_outputs"), 0)
    total = 0
    for chat in workload.chats:
        lookup, past = PromptLookupDrafter(), PastOutputsDrafter(store, trust)
        lookup.open(0)
        past.open(0)
        for index, token in enumerate(chat.text):
            request = _request(chat, index)
            [looked_up] = lookup.propose([request])
            [known] = past.propose([request])
            model = draft_model.finish_forward(draft_model.start_forward(chat, request, None))
            drafted: dict[str, Proposal] = {
                "prompt_lookup": looked_up,
                "model": model,
                "model_and_lookup": merge([looked_up, model]),
                "and_past_outputs": merge([looked_up, known, model]),
            }
            for name, proposal in drafted.items():
                right[name] += most_probable(proposal) == token
            total += 1
        past.close(0, chat.text)
    return {"workload": workload.name, "tokens": total} | {name: count / total for name, count in right.items()}


def most_probable(proposal: Proposal) -> int | None:
    """The most probable next token of a proposal."""
    roots = [i for i, parent in enumerate(proposal.parents) if parent == -1]
    return proposal.tokens[max(roots, key=lambda i: proposal.probabilities[i])] if roots else None


def _propose_everywhere(chats: Sequence[RecordedChat], draft_model: DraftModel) -> None:
    """The draft model's proposals behind every right text, all chats side by side: one forward serves them all."""
    for index in range(max(len(chat.text) for chat in chats)):
        pending = [
            draft_model.start_forward(chat, _request(chat, index), None) for chat in chats if index < len(chat.text)
        ]
        for one in pending:
            draft_model.finish_forward(one)


def _request(chat: RecordedChat, index: int) -> DraftRequest:
    context = [*chat.prompt, *chat.text[:index]]
    return DraftRequest(0, context, len(context), index, chat.sampling)


def _record(
    dtype: str,
) -> tuple[dict[str, list[RecordedChat]], tuple[int, ...], MemoizedDraftModel, Callable[[], None]]:
    """Both workloads with the target's texts, its end tokens, the draft model, and what saves its proposals."""
    options = {"model": DEMO_MODEL, "device": "cpu", "dtype": dtype, "threads": 1, "kv_tokens": KV_TOKENS}
    model, card = load_target(VerifierSettings.model_validate(options))
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(DEMO_MODEL))
    chats = {
        CHATS: make_chats(tokenizer, GREEDY)[: len(mixed_prompts())],
        AGENT: make_agent_chats(tokenizer, FIRST_AGENT_CHAT),
    }
    file = recording_file("workloads", DEMO_MODEL, dtype, chats)
    recording = read_recording(file)
    draft_model = MemoizedDraftModel(card.vocab_size, threads=1)
    if recording:
        chats = {name: with_texts(chats[name], recording.texts[name]) for name in chats}
        draft_model.preload(recording.proposals)
    else:
        engine = live_target(model, card).engine
        chats = {name: record_texts(chats[name], engine, card.eos) for name in chats}

    def save() -> None:
        texts = {name: [chat.text for chat in chats[name]] for name in chats}
        write_recording(file, Recording(texts, draft_model.recorded))

    return chats, card.eos, draft_model, save
