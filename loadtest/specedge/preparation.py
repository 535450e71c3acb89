"""What all parts of the experiment share: requests with texts, the live target, measured costs, the draft model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from edgedraft.observability.progress import progress
from edgedraft.wire import ModelCard
from loadtest.settings import BenchSettings
from loadtest.simulator.clock import Clock
from loadtest.simulator.draft_model import MemoizedDraftModel
from loadtest.simulator.load import Load, run
from loadtest.simulator.profiles import DEVICES, LINKS, EdgeProfile
from loadtest.simulator.recorded_chats import RecordedChat, make_chats, record_texts, with_texts
from loadtest.simulator.recordings import Recording, read_recording, recording_file, write_recording
from loadtest.simulator.systems.edgedraft import EdgeDraft
from loadtest.simulator.target import Target, live_target, measure_steps, recorded_target
from loadtest.simulator.verifier import LIMITS
from loadtest.specedge.prices import Prices
from loadtest.specedge.systems import Costs
from verifier.engine.target import load_target
from verifier.settings import VerifierSettings

GREEDY, SAMPLED = 0.0, 0.7  # temperatures
KV_TOKENS = 1 << 17
RECORDED_STREAMS = 48
DEVICE, LINK = DEVICES["rtx-4090"], LINKS["fibre"]
MOST_ROWS = 1024


@dataclass(frozen=True)
class Experiment:
    """`chats` are the requests by temperature, `costs` the measured ones, `file` the recording.

    `round_nodes` is the most that a round's tree has.
    """

    card: ModelCard
    chats: dict[float, list[RecordedChat]]
    target: Target
    costs: Costs
    draft_model: MemoizedDraftModel
    prices: Prices
    round_nodes: int
    file: Path

    def save(self) -> None:
        """Saves texts and proposals for the next run."""
        texts = {str(temperature): [chat.text for chat in chats] for temperature, chats in self.chats.items()}
        write_recording(self.file, Recording(texts, self.draft_model.recorded))

    @property
    def edge(self) -> EdgeProfile:
        return EdgeProfile(DEVICE, LINK, self.draft_model)

    @property
    def ridge(self) -> int:
        """Rows of the first step that takes twice as long as one of a single row: from there it is compute-bound."""
        seconds = self.costs.steps.seconds
        return next((n for n in range(1, MOST_ROWS) if seconds(n) >= 2 * seconds(1)), MOST_ROWS)

    def recorded_target(
        self, temperature: float = GREEDY, step_seconds: Callable[[int], float] | None = None
    ) -> Target:
        return recorded_target(self.chats[temperature], step_seconds or self.costs.steps.seconds, self.card.eos)


def prepare(settings: BenchSettings) -> Experiment:
    """Loads the models, measures costs, and records what no earlier run with these weights has recorded."""
    model, card = load_target(
        VerifierSettings.model_validate(
            {"model": DEMO_MODEL, "device": "cpu", "dtype": settings.dtype, "threads": 1, "kv_tokens": KV_TOKENS}
        )
    )
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(DEMO_MODEL))
    chats = {
        temperature: make_chats(tokenizer, temperature, i * 1000) for i, temperature in enumerate((GREEDY, SAMPLED))
    }
    file = recording_file(DEMO_MODEL, settings.dtype, chats)
    recording = read_recording(file)
    draft_model = MemoizedDraftModel(card.vocab_size, threads=1)
    target = live_target(model, card)
    if recording:
        chats = {
            temperature: with_texts(chats[temperature], recording.texts[str(temperature)]) for temperature in chats
        }
        draft_model.preload(recording.proposals)
    else:
        chats = {key: record_texts(chats[key], target.engine, card.eos) for key in chats}
    with progress("measuring steps and draft forwards"):
        costs = Costs(measure_steps(target), draft_model.measure_forwards())
    experiment = Experiment(card, chats, target, costs, draft_model, Prices.of(settings), settings.round_nodes, file)
    if not recording:
        _record_proposals(experiment)
    experiment.save()
    return experiment


def _record_proposals(experiment: Experiment) -> None:
    """Most of the draft model's proposals, with many streams at once, so that one forward serves them all."""
    seconds_of_one = experiment.costs.steps.seconds(1)
    with progress("the draft model's proposals", len(experiment.chats), "temperatures") as advance:
        for temperature, chats in experiment.chats.items():
            target = experiment.recorded_target(temperature, lambda rows: seconds_of_one)
            system = EdgeDraft(Clock(), target, experiment.costs.steps, experiment.edge, limits=LIMITS)
            tokens = 2 * sum(len(chat.text) for chat in chats)
            run(system, chats, Load(RECORDED_STREAMS, tokens=tokens, warmup_tokens=0), seed=0)
            advance()
