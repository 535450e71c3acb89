"""Requests of random tokens with an oracle that drafts for them, and how much of them is measured at a load."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import lru_cache

from edgedraft.wire import Sampling
from loadtest.simulator.load import Load
from loadtest.simulator.oracle_draft import WRONG_TOKENS, OracleDraftModel
from loadtest.simulator.recorded_chats import SIGMA, RecordedChat

CHATS = 64
# Mean lengths and bounds, as in ShareGPT but for the tail (recorded_chats.py).
PROMPT_TOKENS, OUTPUT_TOKENS = 161, 240
PROMPT_BOUNDS, OUTPUT_BOUNDS = (8, 600), (32, 700)
MEASURED_TOKENS, MEASURED_PER_STREAM = 4000, 120  # half a response of each stream: with a tenth, runs differ by 10 %
# The scheduler learns calibration and delays first; agents that are attached for long have done so.
WARMUP_TOKENS, WARMUP_PER_STREAM = 400, 40
SHORT_TOKENS, SHORT_PER_STREAM, SHORT_WARMUP_PER_STREAM = 1500, 24, 16
TRIAL_TOKENS, TRIAL_PER_STREAM = 600, 6
PLAN_TOKENS, PLAN_PER_STREAM = 1500, 12  # of a plan's trial: neighbouring plans differ by a few percent


@dataclass(frozen=True)
class World:
    """Requests with texts, and the drafts for them."""

    chats: list[RecordedChat]
    oracle: OracleDraftModel


@lru_cache(maxsize=8)
def make_world(acceptance: float, seed: int) -> World:
    """Texts have nothing in common, so prompt lookup finds nothing in them."""
    rng = random.Random(seed)
    chats = [_chat(number, rng) for number in range(CHATS)]
    return World(chats, OracleDraftModel(chats, acceptance, seed))


def measured_load(streams: int) -> Load:
    tokens = max(MEASURED_TOKENS, MEASURED_PER_STREAM * streams)
    return Load(streams, tokens=tokens, warmup_tokens=max(WARMUP_TOKENS, WARMUP_PER_STREAM * streams))


def short_load(streams: int) -> Load:
    """A part of it, for the search for the streams that a server carries."""
    tokens = max(SHORT_TOKENS, SHORT_PER_STREAM * streams)
    return Load(streams, tokens=tokens, warmup_tokens=max(WARMUP_TOKENS, SHORT_WARMUP_PER_STREAM * streams))


def plan_load(streams: int) -> Load:
    """What a baseline's plan is tried on."""
    return replace(trial_load(streams), tokens=max(PLAN_TOKENS, PLAN_PER_STREAM * streams))


def trial_load(streams: int) -> Load:
    """A shorter one, for searches over many static rules."""
    tokens = max(TRIAL_TOKENS, TRIAL_PER_STREAM * streams)
    return Load(streams, tokens=tokens, warmup_tokens=max(50, 2 * streams))


def _chat(number: int, rng: random.Random) -> RecordedChat:
    prompt = _tokens(_length(rng, PROMPT_TOKENS, *PROMPT_BOUNDS), rng)
    text = _tokens(_length(rng, OUTPUT_TOKENS, *OUTPUT_BOUNDS), rng)
    return RecordedChat(number, "random", "", prompt, Sampling(temperature=0), len(text), text)


def _tokens(count: int, rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.randrange(WRONG_TOKENS[0]) for _ in range(count))


def _length(rng: random.Random, mean: float, shortest: int, longest: int) -> int:
    drawn = rng.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA)
    return max(shortest, min(longest, round(drawn)))
