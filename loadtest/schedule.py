"""`bench schedule`: the goodput choice of drafted nodes beside fixed depths and no drafting, at three loads.

The verifier's own scheduler and engine run the demo target in this process; only the agents are played back
(trace.py): after a commit they did not foresee, a tree's rounds arrive LINK_SECONDS and ROUND_SECONDS apart, after one
that they did, at once. A text that differs from the recorded one ends the run: speed is compared on equal work only.

Under heavy and mixed load the clock stops when the last conversation begins: then the machine is no longer full, and
how long the last one takes says nothing of a service that goes on. A fixed depth checks the k nodes of the most
probable path, whatever they cost and whatever their chances. Everything else, waiting for drafts, prompts, windows, is
the same on all sides. Sides take turns, load by load.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import Any

from edgedraft.local.demo_model import DEMO_MODEL
from edgedraft.observability.progress import progress
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.tree import DraftSlice
from edgedraft.wire import Draft, ModelCard, Open
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.trace import GREEDY, TOKENS, Conversation, Tree, load
from verifier.engine.target import load_target
from verifier.engine.transformers_engine import TransformersEngine
from verifier.engine_loop import warm_up
from verifier.scheduling.policy import SelectDraftNodes, select_for_goodput
from verifier.scheduling.scheduler import Scheduler, SchedulerLimits
from verifier.settings import VerifierSettings

DEPTHS = (1, 2, 4, 8)
REPEATS = 2
LINK_SECONDS = 0.004  # a round trip and the first look of the drafter: near, as the target is small
ROUND_SECONDS = 0.002  # each further round
AGENT = "played back"
BAD_AGENT = "played back, wrong"
SALTS = count(1)


@dataclass(frozen=True)
class Load:
    """Conversations to hold: when each may begin at the earliest, and at most `at_once`; agents by conversation."""

    name: str
    conversations: Sequence[Conversation]
    begins: Sequence[float]
    agents: Sequence[str]  # AGENT, BAD_AGENT or "" for none
    at_once: int


@dataclass
class Run:
    """What one side took for one load."""

    tokens: int = 0
    steps: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    nodes: int = 0
    accepted: int = 0
    sizes: Counter[int] = field(default_factory=Counter)  # nodes of a step, rounded up to a power of two


def schedule(settings: BenchSettings) -> Result:
    """Committed tokens a second of goodput, depths 1, 2, 4, 8 and none; light, heavy and mixed load."""
    model, card = load_target(
        VerifierSettings.model_validate(
            {"model": DEMO_MODEL, "device": "cpu", "dtype": settings.dtype, "threads": settings.threads}
            | {"kv_tokens": 16384}
        )
    )
    sides: dict[str, SelectDraftNodes | None] = {
        "goodput": select_for_goodput,
        **{f"depth {k}": _fixed(k) for k in DEPTHS},
        "none": None,
    }
    loads = _loads(load())
    load_before = os.getloadavg()[0]
    runs: dict[tuple[str, str], list[Run]] = {(side, chosen.name): [] for side in sides for chosen in loads}
    with progress("playing back", (REPEATS + 1) * len(runs), "runs") as advance:
        for repeat in range(REPEATS + 1):
            for chosen in loads:
                for side in random.Random(repeat).sample(list(sides), len(sides)):
                    run = play(model, card, chosen, sides[side])
                    if repeat:  # the first round only warms up
                        runs[side, chosen.name].append(run)
                    advance(note=f"{side}, {chosen.name}")
    return Result(
        f"committed tokens a second, {settings.dtype}, threads: {settings.threads}",
        [_row(side, chosen.name, runs[side, chosen.name]) for chosen in loads for side in sides],
        _ratios(runs, [chosen.name for chosen in loads], list(sides)),
        {
            "model": DEMO_MODEL,
            "dtype": settings.dtype,
            "threads": settings.threads,
            "repeats": REPEATS,
            "link_seconds": LINK_SECONDS,
            "round_seconds": ROUND_SECONDS,
            "machine_load_before": load_before,
            "machine_load_after": os.getloadavg()[0],
        },
        ["rates are medians per second of wall time, waiting included; CPU is the engine thread's"],
    )


def play(model: PackedModel, card: ModelCard, chosen: Load, choose: SelectDraftNodes | None) -> Run:
    """Hold a load's conversations; `choose` None is no drafting. Raises AssertionError if a text differs."""
    engine = TransformersEngine(model, card.vocab_size, card.context_length, chosen.at_once)
    limits = SchedulerLimits(
        step_tokens=512, verify_nodes=16, prompt_delay=0.3, draft_wait=0.5, wait_share=1.0, prompt_lookup=False
    )
    scheduler = Scheduler(engine, limits, choose or select_for_goodput)
    warm_up(engine, scheduler.step_costs)
    salt = f"run {next(SALTS)}"  # nobody finds an earlier run's prompts computed
    agents: dict[int, _Agent] = {}
    texts: dict[int, list[int]] = {}
    due: list[tuple[float, int, Draft]] = []
    left = list(range(len(chosen.conversations)))
    run = Run()
    began, cpu = time.monotonic(), time.thread_time()
    while texts or left:
        if chosen.at_once > 1 and not left:
            break
        now = time.monotonic()
        while left and len(texts) < chosen.at_once and chosen.begins[left[0]] <= now - began:
            key = left.pop(0)
            conversation = chosen.conversations[key]
            agent = chosen.agents[key] if choose else ""
            scheduler.open(
                key + 1,
                Open(key + 1, conversation.prompt, GREEDY, TOKENS, eos=card.eos, agent=agent, salt=f"{salt} {key}"),
                now,
            )
            texts[key + 1] = []
            if agent:
                agents[key + 1] = _Agent(key + 1, conversation.trees, wrong=agent == BAD_AGENT)
                due += agents[key + 1].plant(0, now)
        arrived = [entry for entry in due if entry[0] <= now]
        due = [entry for entry in due if entry[0] > now]
        for at, key, draft in sorted(arrived, key=lambda entry: (entry[0], entry[2].epoch, entry[2].first)):
            scheduler.add_draft(key, draft, at)
        plan = scheduler.schedule(now)
        if not plan.scheduled:
            opening = began + chosen.begins[left[0]] if left and len(texts) < chosen.at_once else None
            times = [plan.wake_at, opening, min((at for at, _, _ in due), default=None)]
            until = min(at for at in times if at is not None)
            time.sleep(max(0.0, until - time.monotonic()))
            continue
        step_began = time.monotonic()
        progress_made = engine.step(plan.scheduled)
        now = time.monotonic()
        run.steps += 1
        run.sizes[_power(sum(len(item.draft) for item in plan.scheduled))] += 1
        for key, commit in scheduler.update(plan.scheduled, progress_made, step_began, now).items():
            texts[key] += commit.tokens
            run.tokens += len(commit.tokens)
            run.nodes += commit.nodes
            run.accepted += commit.accepted
            right = chosen.conversations[key - 1].text
            assert texts[key] == right[: len(texts[key])], f"conversation {key} took another turn"
            if commit.finish:
                assert len(texts[key]) == len(right), f"conversation {key} ended early"
                del texts[key]
                due = [entry for entry in due if entry[1] != key]
            elif key in agents:
                due = [entry for entry in due if entry[1] != key]
                due += agents[key].committed(len(texts[key]), commit.tokens, commit.accepted, now)
    run.wall, run.cpu = time.monotonic() - began, time.thread_time() - cpu
    for key in texts:
        scheduler.close(key)
    return run


class _Agent:
    """One session's agent, played back: it plants the recorded tree anew after every commit."""

    def __init__(self, session: int, trees: Sequence[Tree], wrong: bool) -> None:
        self._session = session
        self._trees = trees
        self._wrong = wrong
        self._epoch = 0
        self._planted = 0

    def committed(self, at: int, tokens: Sequence[int], accepted: int, now: float) -> list[tuple[float, int, Draft]]:
        """Foreseen is a commit whose tokens were all in the tree: then drafting had gone on from there already."""
        foreseen = not self._wrong and accepted > 0 and _holds(self._trees[self._planted], tokens)
        return self.plant(at, now - LINK_SECONDS - 16 * ROUND_SECONDS if foreseen else now)

    def plant(self, at: int, since: float) -> list[tuple[float, int, Draft]]:
        """The tree behind `at` output tokens as drafts with the times at which they arrive."""
        self._epoch, self._planted = self._epoch + 1, at
        tree = self._trees[at]
        drafts: list[tuple[float, int, Draft]] = []
        for i, token in enumerate(tree.tokens):
            parent, confidence = tree.parents[i], tree.confidence[i : i + 1]
            if self._wrong:
                confidence = bytes(1)
            said = (token + 1) % 1000 if self._wrong else token
            draft = Draft(self._session, self._epoch, at, i + 1, [said], [parent], confidence)
            drafts.append((since + LINK_SECONDS + (tree.rounds[i] - 1) * ROUND_SECONDS, self._session, draft))
        return drafts


def _holds(tree: Tree, tokens: Sequence[int]) -> bool:
    """Whether these tokens are a path from a tree's root."""
    node = 0
    for token in tokens:
        nodes = zip(tree.tokens, tree.parents, strict=True)
        child = next((i for i, known in enumerate(nodes, 1) if known == (token, node)), None)
        if child is None:
            return False
        node = child
    return True


def _fixed(depth: int) -> SelectDraftNodes:
    """Checks the first `depth` nodes of each draft's most probable path."""

    def choose(
        drafts: Mapping[int, DraftSlice],
        probabilities: Mapping[int, Sequence[float]],
        rows: int,
        tokens: float,
        max_nodes: int,
        seconds: Callable[[int], float],
    ) -> dict[int, list[int]]:
        chosen: dict[int, list[int]] = {}
        for key, draft in drafts.items():
            path: list[int] = []
            while len(path) < depth:
                end = path[-1] if path else -1
                children = [i for i, parent in enumerate(draft.parents) if parent == end]
                if not children:
                    break
                path.append(min(children, key=lambda i: draft.costs[i]))
            chosen[key] = path
        return chosen

    return choose


def _loads(conversations: Sequence[Conversation]) -> list[Load]:
    dice = random.Random(4)
    light, conversations = conversations[:4], [*conversations, *conversations]
    everybody = len(conversations)
    arrivals, at = [], 0.0
    for _ in conversations:
        arrivals.append(at)
        at += dice.expovariate(1 / 0.15)
    agents = [dice.choice((AGENT, AGENT, BAD_AGENT, "")) for _ in range(everybody)]
    return [
        Load("light", light, [0.0] * 4, [AGENT] * 4, 1),
        Load("heavy", conversations, [0.0] * everybody, [AGENT] * everybody, 16),
        Load("mixed", conversations, arrivals, agents, 16),
    ]


def _power(nodes: int) -> int:
    return 1 << (nodes - 1).bit_length() if nodes else 0


def _rate(runs: Sequence[Run]) -> float:
    return median(run.tokens / run.wall for run in runs)


def _row(side: str, load_name: str, runs: Sequence[Run]) -> dict[str, Any]:
    last = runs[-1]
    rates = [run.tokens / run.wall for run in runs]
    return {
        "load": load_name,
        "choice": side,
        "tokens_per_s": _rate(runs),
        "spread": f"±{(max(rates) - min(rates)) / 2 / _rate(runs):.0%}",
        "tokens_per_CPU_s": median(run.tokens / run.cpu for run in runs),
        "tokens_per_step": last.tokens / last.steps,
        "nodes_per_step": last.nodes / last.steps,
        "accepted": last.accepted / last.nodes if last.nodes else None,
        "steps_by_nodes": " ".join(f"{size}:{number}" for size, number in sorted(last.sizes.items())),
    }


def _ratios(
    runs: Mapping[tuple[str, str], Sequence[Run]], loads: Sequence[str], sides: Sequence[str]
) -> dict[str, float]:
    ratios: dict[str, float] = {}
    others = [side for side in sides if side != "goodput"]
    for name in loads:
        mine = _rate(runs["goodput", name])
        ratios[f"goodput_over_best_other_at_{name}_load"] = mine / max(_rate(runs[side, name]) for side in others)
        for side in others:
            ratios[f"goodput_over_{side.replace(' ', '_')}_at_{name}_load"] = mine / _rate(runs[side, name])
    return ratios
