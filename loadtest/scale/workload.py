"""The requests of `bench scale`: short prompts with the target's answers and the draft model's proposals for them.

Prompts are similar in length and found in the prefix cache after the first time, so that a measured window does not
depend on which of them fall into it. Texts and proposals are computed once and kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean, median

from transformers import AutoTokenizer

from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from edgedraft.wire import Sampling
from loadtest.simulator.draft_model import MemoizedDraftModel
from loadtest.simulator.recorded_chats import RecordedChat, record_texts, with_texts
from loadtest.simulator.recordings import Recording, read_recording, recording_file, write_recording
from loadtest.simulator.target import Target, live_target, recorded_target
from loadtest.step_timing import time_step
from loadtest.workloads import mixed_prompts, prompt_tokens
from verifier.engine.interface import Engine
from verifier.engine.target import load_target
from verifier.scheduling.step_costs import StepCosts
from verifier.settings import VerifierSettings

LONGEST_PROMPT = 60  # tokens
ANSWER_TOKENS = 100
CONTEXT = 96  # a multiple of the KV cache's block size, so that all of it is found again
SIZES = ((1, 1), (2, 1), (4, 1), (4, 2), (4, 4), (8, 4), (16, 4), (16, 8))  # sessions, and rows of each
REPEATS = 7
TEMPERATURE = "0.0"


@dataclass(frozen=True)
class Workload:
    """`engine` is the live one, to measure steps with."""

    chats: list[RecordedChat]
    engine: Engine
    draft_model: MemoizedDraftModel
    eos: tuple[int, ...]
    depends_on: tuple[object, ...]

    def recorded_target(self, steps: StepCosts) -> Target:
        """A recorded target whose steps follow these costs."""
        return recorded_target(self.chats, steps.seconds, self.eos, cached=True)

    def measure_steps(self) -> dict[int, float]:
        """CPU seconds of steps by rows, in texts of CONTEXT tokens, about half of their final length."""
        texts = [[*chat.prompt, *chat.text] for chat in self.chats]
        contexts = [(tokens + texts[0])[: CONTEXT + 1] for tokens in texts]
        found: dict[int, float] = {}
        for sessions, rows in SIZES:
            own = [contexts[key % len(contexts)] for key in range(sessions)]
            found[sessions * rows] = median(time_step(self.engine, sessions, rows, own)[1] for _ in range(REPEATS))
        return found

    def save(self) -> None:
        """Saves texts and proposals for the next run."""
        texts = {TEMPERATURE: [chat.text for chat in self.chats]}
        write_recording(recording_file(*self.depends_on), Recording(texts, self.draft_model.recorded))


def prepare(dtype: str, answer_tokens: int = ANSWER_TOKENS) -> Workload:
    """Loads the demo models; takes half a minute more without a recording."""
    model, card = load_target(
        VerifierSettings.model_validate({"model": DEMO_MODEL, "device": "cpu", "dtype": dtype, "threads": 1})
    )
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(DEMO_MODEL))
    chats: list[RecordedChat] = []
    for prompt in mixed_prompts():
        tokens = tuple(prompt_tokens(tokenizer, prompt.text))
        if len(tokens) <= LONGEST_PROMPT:
            greedy = Sampling(temperature=0)
            chats.append(RecordedChat(len(chats), prompt.kind, prompt.text, tokens, greedy, answer_tokens))
    depends_on = ("scale", DEMO_MODEL, dtype, tuple(chats))
    recording = read_recording(recording_file(*depends_on))
    engine = live_target(model, card).engine
    chats = with_texts(chats, recording.texts[TEMPERATURE]) if recording else record_texts(chats, engine, card.eos)
    draft_model = MemoizedDraftModel(card.vocab_size, threads=1)
    draft_model.preload(recording.proposals if recording else [])
    return Workload(chats, engine, draft_model, card.eos, depends_on)


def mean_steps(*measured: Mapping[int, float]) -> StepCosts:
    """The mean of several measurements, since other load on the machine changes a step's duration."""
    costs = StepCosts()
    for rows in measured[0]:
        costs.record(rows, mean(one[rows] for one in measured))
    return costs
