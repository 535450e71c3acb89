"""What is asked for at scale: short prompts with the target's own answers, and the draft model's guesses along them.

Prompts are alike in length and found computed after the first time, so that no window is decided by which of them
happened to fall into it. Texts and guesses are computed once and kept, as `bench seed` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean, median

from transformers import AutoTokenizer

from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from edgedraft.wire import Sampling
from loadtest.seed.chats import Chat, record, with_texts
from loadtest.seed.drafts import Drafts
from loadtest.seed.record import Record, read, record_file, write
from loadtest.seed.target import Target, played, real
from loadtest.verify import step
from loadtest.workloads import mixed, prompt_tokens
from verifier.engine.interface import Engine
from verifier.engine.target import load_target
from verifier.scheduling.step_costs import StepCosts
from verifier.settings import VerifierSettings

LONGEST_PROMPT = 60  # tokens
ANSWER = 100
CONTEXT = 96  # a multiple of the KV cache's block, so that all of it is found again
SIZES = ((1, 1), (2, 1), (4, 1), (4, 2), (4, 4), (8, 4), (16, 4), (16, 8))  # sessions, and rows of each
STEPS_AGAIN = 7
KIND = "0.0"


@dataclass(frozen=True)
class Texts:
    """`engine` is the real one, to measure."""

    chats: list[Chat]
    engine: Engine
    drafts: Drafts
    eos: tuple[int, ...]
    file_of: tuple[object, ...]

    def played(self, steps: StepCosts) -> Target:
        """An engine that says them, whose steps take so long."""
        return played(self.chats, steps.seconds, self.eos, cached=True)

    def measured_steps(self) -> dict[int, float]:
        """CPU seconds of steps by their rows, all decoded or checked, in texts as long as these are halfway."""
        whole = [[*chat.prompt, *chat.text] for chat in self.chats]
        contexts = [(tokens + whole[0])[: CONTEXT + 1] for tokens in whole]
        found: dict[int, float] = {}
        for sessions, rows in SIZES:
            own = [contexts[key % len(contexts)] for key in range(sessions)]
            found[sessions * rows] = median(step(self.engine, sessions, rows, own)[1] for _ in range(STEPS_AGAIN))
        return found

    def keep(self) -> None:
        """Keep texts and guesses for the next run."""
        write(record_file(*self.file_of), Record({KIND: [chat.text for chat in self.chats]}, self.drafts.known))


def prepare(dtype: str, answer: int = ANSWER) -> Texts:
    """Loads the demo models; takes half a minute more where nothing was kept."""
    model, card = load_target(
        VerifierSettings.model_validate({"model": DEMO_MODEL, "device": "cpu", "dtype": dtype, "threads": 1})
    )
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(DEMO_MODEL))
    asked: list[Chat] = []
    for prompt in mixed():
        tokens = tuple(prompt_tokens(tokenizer, prompt.text))
        if len(tokens) <= LONGEST_PROMPT:
            asked.append(Chat(len(asked), prompt.kind, prompt.text, tokens, Sampling(temperature=0), answer))
    file_of = ("scale", DEMO_MODEL, dtype, tuple(asked))
    kept = read(record_file(*file_of))
    engine = real(model, card).engine
    chats = with_texts(asked, kept.texts[KIND]) if kept else record(asked, engine, card.eos)
    drafts = Drafts(card.vocab_size, threads=1)
    drafts.remember(kept.guesses if kept else [])
    return Texts(chats, engine, drafts, card.eos, file_of)


def curve_of(*measured: Mapping[int, float]) -> StepCosts:
    """The mean of several measurements: the machine's other load changes what a step takes."""
    costs = StepCosts()
    for rows in measured[0]:
        costs.record(rows, mean(one[rows] for one in measured))
    return costs
