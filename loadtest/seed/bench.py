"""What all parts of the experiment share: the requests with their texts, the target, its costs, the drafts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from transformers import AutoTokenizer

from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from edgedraft.observability.progress import progress
from edgedraft.wire import ModelCard
from loadtest.seed.beside import Beside
from loadtest.seed.best import Plans, best_round, best_speculations
from loadtest.seed.chats import Chat, chats, record, with_texts
from loadtest.seed.clock import Clock
from loadtest.seed.costs import Prices, cost
from loadtest.seed.drafts import Drafts
from loadtest.seed.fleet import Load, System, Window, run
from loadtest.seed.profiles import DEVICES, LINKS, Device, Link
from loadtest.seed.record import Record, read, record_file, write
from loadtest.seed.rounds import Rounds
from loadtest.seed.server import EDGE_LIMITS
from loadtest.seed.streaming import Streaming
from loadtest.seed.target import Target, measured_steps, played, real
from loadtest.settings import BenchSettings
from verifier.engine.target import load_target
from verifier.scheduling.step_costs import StepCosts
from verifier.settings import VerifierSettings

WARM = 0.7  # the temperature besides greedy
KV_TOKENS = 1 << 17
NAMES = {
    "a": "datacenter only",
    "b": "best speculation",
    "m": "model speculation",
    "c": "edge, rounds",
    "d": "EdgeDraft",
}
OTHERS = tuple(name for name in NAMES if name != "d")
EDGES = ("c", "d")
LEARNING = ("a", "d")  # they have been running for long and keep what they learnt; the others learn nothing
RECORDED_AT_ONCE = 48
DEVICE, LINK = DEVICES["rtx-4090"], LINKS["fibre"]


@dataclass(frozen=True)
class Bench:
    """`chats` by temperature; `steps` and `looks` are the measured costs of the target and of the draft model."""

    card: ModelCard
    chats: dict[float, list[Chat]]
    target: Target
    steps: StepCosts
    looks: StepCosts
    drafts: Drafts
    prices: Prices
    file: Path

    def keep(self) -> None:
        """Keep texts and guesses for the next run."""
        texts = {str(heat): [chat.text for chat in asked] for heat, asked in self.chats.items()}
        write(self.file, Record(texts, self.drafts.known))

    @property
    def ridge(self) -> int:
        """Rows of the step that takes twice as long as a step of one: from there on it is bound by arithmetic."""
        return next((n for n in range(1, 1024) if self.steps.seconds(n) >= 2 * self.steps.seconds(1)), 1024)

    def played(self, temperature: float = 0.0, step: Callable[[int], float] | None = None) -> Target:
        return played(self.chats[temperature], step or self.steps.seconds, self.card.eos)


def prepare(settings: BenchSettings) -> Bench:
    """Loads, measures, and records what no run on this machine with these weights has recorded before."""
    model, card = load_target(
        VerifierSettings.model_validate(
            {"model": DEMO_MODEL, "device": "cpu", "dtype": settings.dtype, "threads": 1, "kv_tokens": KV_TOKENS}
        )
    )
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(DEMO_MODEL))
    asked = {heat: chats(tokenizer, heat, i * 1000) for i, heat in enumerate((0.0, WARM))}
    file = record_file(DEMO_MODEL, settings.dtype, asked)
    kept = read(file)
    drafts = Drafts(card.vocab_size, threads=1)
    target = real(model, card)
    if kept:
        texts = {heat: with_texts(asked[heat], kept.texts[str(heat)]) for heat in asked}
        drafts.remember(kept.guesses)
    else:
        texts = {heat: record(asked[heat], target.engine, card.eos) for heat in asked}
    with progress("measuring steps and looks"):
        steps = measured_steps(target)
        looks = drafts.measured_looks()
    bench = Bench(card, texts, target, steps, looks, drafts, Prices.read(), file)
    if not kept:
        _guess_ahead(bench)
    bench.keep()
    return bench


def _guess_ahead(bench: Bench) -> None:
    """Most of the draft model's guesses: with so many streams a forward of it serves them all."""
    with progress("the draft model's guesses", len(bench.chats), "temperatures") as advance:
        for heat, asked in bench.chats.items():
            quick = bench.played(heat, lambda rows: bench.steps.seconds(1))
            everybody = Streaming(Clock(), quick, bench.steps, (DEVICE, LINK, bench.drafts))
            total = sum(len(chat.text) for chat in asked)
            run(everybody, asked, Load(RECORDED_AT_ONCE, tokens=2 * total, warm=0), seed=0)
            advance()


def best_plans(
    bench: Bench,
    target: Target,
    asked: Sequence[Chat],
    load: Load,
    steps: StepCosts,
    looks: StepCosts,
    edge: tuple[Device, Link],
) -> Plans:
    """The other ways at their best for this load."""
    both = best_speculations(target, steps, looks, bench.drafts, asked, load)
    return Plans(*both, best_round(target, steps, (*edge, bench.drafts), asked, load))


def system(
    bench: Bench,
    name: str,
    target: Target,
    steps: StepCosts,
    edge: tuple[Device, Link],
    plans: Plans,
    looks: StepCosts | None = None,
) -> System:
    """One of them, by its letter, new."""
    device, link = edge
    match name:
        case "a":
            return Streaming(Clock(), target, steps, None)
        case "b":
            return Beside(Clock(), target, steps, looks or bench.looks, bench.drafts, plans.speculation)
        case "m":
            return Beside(Clock(), target, steps, looks or bench.looks, bench.drafts, plans.model)
        case "c":
            return Rounds(Clock(), target, steps, (device, link, bench.drafts), plans.rounds)
        case _:
            return Streaming(Clock(), target, steps, (device, link, bench.drafts), limits=EDGE_LIMITS)


def figures(window: Window, name: str, sessions: int, prices: Prices) -> dict[str, Any]:
    """A run in numbers, the columns of the tables."""
    priced = cost(window, sessions if name in EDGES else 0, prices)
    meters = window.meters
    return {
        "tokens_per_s": window.tokens / window.seconds,
        "tokens_per_busy_s": window.tokens / meters.server,
        "$_per_1M": priced.rented,
        "$_per_1M_used": priced.used,
        "edge_share": priced.edge_share,
        "first_token_ms": None if window.first is None else 1e3 * window.first,
        "gap_ms": 1e3 * window.mean_gap,
        "gap_p50_ms": 1e3 * window.gap(0.5),
        "gap_p99_ms": 1e3 * window.gap(0.99),
        "tokens_per_verify": window.tokens / meters.verifies,
        "nodes_per_verify": meters.nodes / meters.verifies,
        "bytes_per_token": (meters.up + meters.down) / window.tokens if name in EDGES else None,
    }


def means(every: Sequence[dict[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    """The mean of each column over the runs that have it, None where none has."""
    row: dict[str, Any] = {}
    for column in columns:
        values = [found[column] for found in every if found[column] is not None]
        row[column] = mean(values) if values else None
    return row
