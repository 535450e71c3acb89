"""The requests: prompts of six kinds, and answers whose lengths are spread as ShareGPT's are.

ShareGPT's answers are 338 tokens long in the mean, its prompts 161 (Kwon et al. 2023, figure 11, arXiv 2309.06180),
both log-normal to the eye. Here the spread is kept and the mean is three eighths, since the demo target runs on a CPU;
texts end earlier where the target ends them. They are computed once (`record`): every system is held to them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from edgedraft.observability.progress import progress
from edgedraft.wire import Sampling
from loadtest.workloads import mixed, prompt_tokens
from verifier.engine.interface import Engine, Request, ScheduledSession

MEAN, SPREAD = 128, 0.8  # tokens of an answer; sigma of its logarithm
SHORTEST, LONGEST = 16, 320
AT_ONCE = 24
STEP_ROWS = 512


@dataclass(frozen=True)
class Chat:
    """One request, the user's `words`, and what the target answers."""

    number: int
    kind: str
    words: str
    prompt: tuple[int, ...]
    sampling: Sampling
    most: int  # tokens to answer with
    text: tuple[int, ...] = ()


def chats(tokenizer: PreTrainedTokenizerBase, temperature: float, first: int = 0) -> list[Chat]:
    """48 requests, numbered from `first`: each prompt as it is and asked for in detail; without their texts."""
    dice = random.Random(11)
    made: list[Chat] = []
    for opening in ("", "Please answer in detail. "):
        for prompt in mixed():
            words = opening + prompt.text
            made.append(
                Chat(
                    number=first + len(made),
                    kind=prompt.kind,
                    words=words,
                    prompt=tuple(prompt_tokens(tokenizer, words)),
                    sampling=Sampling(temperature=temperature, seed=1000 + len(made)),
                    most=_length(dice),
                )
            )
    return made


def record(asked: Sequence[Chat], engine: Engine, eos: Sequence[int], at_once: int = AT_ONCE) -> list[Chat]:
    """The requests with the target's texts, each up to its length or an end of text."""
    texts: dict[int, list[int]] = {chat.number: [] for chat in asked}
    waiting, unseen = list(asked), dict[int, int]()
    with progress("the target's texts", len(asked), "texts") as advance:
        while waiting or unseen:
            while waiting and len(unseen) < at_once:
                chat = waiting.pop(0)
                unseen[chat.number] = engine.open(
                    Request(chat.number, chat.prompt, chat.sampling, chat.most, frozenset(eos))
                )
            for made in engine.step(_work(unseen)):
                texts[made.session] += made.tokens
                unseen[made.session] = made.num_uncomputed
                if made.finish:
                    del unseen[made.session]
                    engine.close(made.session)
                    advance()
    return [replace(chat, text=tuple(texts[chat.number])) for chat in asked]


def _work(unseen: dict[int, int]) -> list[ScheduledSession]:
    """As many rows as a step takes, sessions that decode first."""
    left, work = STEP_ROWS, []
    for key in sorted(unseen, key=lambda key: unseen[key] > 1):
        if rows := min(left, unseen[key]):
            work.append(ScheduledSession(key, rows))
            left -= rows
    return work


def with_texts(asked: Sequence[Chat], texts: Sequence[Sequence[int]]) -> list[Chat]:
    """The requests with texts that were recorded before, in the same order."""
    return [replace(chat, text=tuple(text)) for chat, text in zip(asked, texts, strict=True)]


def _length(dice: random.Random) -> int:
    drawn = dice.lognormvariate(math.log(MEAN) - SPREAD**2 / 2, SPREAD)
    return max(SHORTEST, min(LONGEST, round(drawn)))
