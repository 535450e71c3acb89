"""Desktops and the links to them: what a look of a draft model takes there, and what a message takes to get across.

Devices are published measurements of small language models; each names the model it was measured with and its source.
A look is one token of that model. Prompts go in PROMPT_TOKENS at a time, in a look's time, on all of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from loadtest.seed.clock import Clock

PROMPT_TOKENS = 20
FRAME_BYTES = 66  # of TCP, IP and Ethernet headers, WebSocket's and TLS's left out
RETRANSMISSION = 0.2  # seconds before a lost message is sent again, when nothing that follows it tells of the loss


@dataclass(frozen=True)
class Device:
    """`look` is in seconds; `source` says of what and by whom."""

    name: str
    look: float
    source: str

    def prompt(self, tokens: int) -> float:
        """Seconds of taking in a prompt."""
        return self.look * math.ceil(tokens / PROMPT_TOKENS)


@dataclass(frozen=True)
class Link:
    """`trip` is the round trip and `jitter` the mean of an exponential delay on each way, in seconds.

    A message is lost with the chance `loss`; TCP sends it again, and what follows waits for it. Rates are in bits a
    second.
    """

    name: str
    trip: float
    jitter: float = 0.0
    loss: float = 0.0
    up: float = 50e6
    down: float = 200e6

    def with_trip(self, trip: float) -> Link:
        return replace(self, name=f"{1e3 * trip:.0f} ms", trip=trip)


KHMEL = "LFM2.5-1.2B Q4_K_M in llama.cpp, pavlokhmel.com/llm_throughput_benchmark_on_13_gpus_and_10_models.html (2026)"
DEVICES = {
    "rtx-4090": Device("RTX 4090", 1 / 741, f"741 tokens/s, {KHMEL}"),
    "m5": Device("Apple M5", 1 / 158, f"158 tokens/s, {KHMEL}"),
    "laptop": Device(
        "RTX 4060 Laptop", 1 / 55, "55 tokens/s, Phi-3 Mini 3.8B Q4_0 in Ollama, substrate.lol/site/benchmarks (2026)"
    ),
    "phone": Device(
        "Snapdragon 8 Elite",
        1 / 16,
        "16 tokens/s, Llama-3.2-1B on the NPU, huggingface.co/runanywhere/llama3_2_1b_HNPU",
    ),
}
LINKS = {
    "fibre": Link("fibre", 0.015, 0.001),
    "cable": Link("cable", 0.030, 0.003, 0.0005, up=20e6),
    "mobile": Link("mobile", 0.050, 0.010, 0.005, up=10e6, down=50e6),
}


class Way:
    """One direction of one link: messages arrive in the order in which they were sent."""

    def __init__(self, clock: Clock, link: Link, rate: float, dice: random.Random) -> None:
        self.bytes = 0
        self._clock, self._link, self._rate, self._dice = clock, link, rate, dice
        self._free = self._last = 0.0

    def send(self, size: int, arrived: Callable[[], None]) -> None:
        size += FRAME_BYTES
        self.bytes += size
        self._free = max(self._free, self._clock.now) + 8 * size / self._rate
        delay = self._link.trip / 2
        if self._link.jitter:
            delay += self._dice.expovariate(1 / self._link.jitter)
        while self._dice.random() < self._link.loss:
            delay += max(RETRANSMISSION, self._link.trip)
        self._last = max(self._last, self._free + delay)
        self._clock.at(self._last, arrived)
