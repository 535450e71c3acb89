"""The requests of an experiment with the target's recorded answers: six kinds of chats, or an agent's work.

ShareGPT's answers have 338 tokens on average, its prompts 161, both about log-normal (Kwon et al. 2023, figure 11,
arXiv 2309.06180). In the chats here the spread is the same and the mean is three eighths of it, since the demo target
runs on a CPU; texts end earlier where the target ends them. Every system must produce exactly these texts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from edgedraft.observability.progress import progress
from edgedraft.wire import Sampling
from loadtest.generation import generate_texts
from loadtest.workloads import agent_prompts, mixed_prompts, prompt_tokens
from loadtest.workloads.trace import GREEDY, TracedChat
from verifier.engine.interface import Engine, Request

MEAN_TOKENS, SIGMA = 128, 0.8  # of an answer; sigma of its logarithm
SHORTEST, LONGEST = 16, 320
AGENT_TOKENS = 256  # of an agent's output at most: a file printed again, a result quoted
CONCURRENCY = 24
OPENINGS = ("", "Please answer in detail. ")


@dataclass(frozen=True)
class RecordedChat:
    """One request: the user's `message`, its prompt's token ids, and `text`, the target's output token ids."""

    number: int
    kind: str
    message: str
    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    text: tuple[int, ...] = ()


def make_chats(tokenizer: PreTrainedTokenizerBase, temperature: float, first: int = 0) -> list[RecordedChat]:
    """Returns 48 requests without texts, numbered from `first`: each prompt with each of OPENINGS."""
    rng = random.Random(11)
    chats: list[RecordedChat] = []
    for opening in OPENINGS:
        for prompt in mixed_prompts():
            message = opening + prompt.text
            chats.append(
                RecordedChat(
                    number=first + len(chats),
                    kind=prompt.kind,
                    message=message,
                    prompt=tuple(prompt_tokens(tokenizer, message)),
                    sampling=Sampling(temperature=temperature, seed=1000 + len(chats)),
                    max_tokens=_output_length(rng),
                )
            )
    return chats


def make_agent_chats(tokenizer: PreTrainedTokenizerBase, first: int = 0) -> list[RecordedChat]:
    """Returns an agent's requests without texts, greedy, numbered from `first`, those on one context in a row."""
    return [
        RecordedChat(
            number=first + number,
            kind=prompt.kind,
            message=prompt.text,
            prompt=tuple(prompt_tokens(tokenizer, prompt.text)),
            sampling=GREEDY,
            max_tokens=AGENT_TOKENS,
        )
        for number, prompt in enumerate(agent_prompts())
    ]


def from_trace(traced: Sequence[TracedChat]) -> list[RecordedChat]:
    """The conversations of the recorded trace as requests, numbered from 0."""
    return [
        RecordedChat(number, "", "", tuple(chat.prompt), GREEDY, len(chat.text), tuple(chat.text))
        for number, chat in enumerate(traced)
    ]


def record_texts(
    chats: Sequence[RecordedChat], engine: Engine, eos: Sequence[int], concurrency: int = CONCURRENCY
) -> list[RecordedChat]:
    """The requests with the target's texts, each up to its length or an end-of-sequence token."""
    requests = (Request(chat.number, chat.prompt, chat.sampling, chat.max_tokens, frozenset(eos)) for chat in chats)
    with progress("the target's texts", len(chats), "texts") as advance:
        texts = generate_texts(engine, requests, concurrency, advance)
    return [replace(chat, text=tuple(texts[chat.number])) for chat in chats]


def with_texts(chats: Sequence[RecordedChat], texts: Sequence[Sequence[int]]) -> list[RecordedChat]:
    """The requests with texts recorded earlier, in the same order."""
    return [replace(chat, text=tuple(text)) for chat, text in zip(chats, texts, strict=True)]


def _output_length(rng: random.Random) -> int:
    drawn = rng.lognormvariate(math.log(MEAN_TOKENS) - SIGMA**2 / 2, SIGMA)
    return max(SHORTEST, min(LONGEST, round(drawn)))
