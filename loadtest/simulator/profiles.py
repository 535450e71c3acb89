"""Profiles of edge devices, of the links to them, and of servers that are computed instead of measured.

Device speeds are published measurements of small language models; each names its model and source. One draft forward
is one token of that model. A device takes in a prompt at PREFILL_TOKENS tokens per forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edge_agent.drafting.forward_size import MAX_REQUESTS_PER_SESSION
from verifier.scheduling.step_costs import StepCosts

if TYPE_CHECKING:
    from loadtest.simulator.draft_model import DraftModel

PREFILL_TOKENS = 20
# Bytes and bfloat16 operations (dense) per second, of which four fifths and half are reached.
A100_BANDWIDTH, A100_FLOPS = 0.8 * 2.04e12, 0.5 * 312e12  # A100-80
H100_BANDWIDTH, H100_FLOPS = 0.8 * 3.35e12, 0.5 * 989e12  # H100 SXM
RTX_4090_BANDWIDTH = 0.8 * 1.008e12
OVERHEAD_SECONDS = 0.001  # of a device's forward beyond reading weights: launches, sampling, the agent's own work
LAUNCH_SECONDS = 0.0015  # a forward of a small model takes no less, even from a CUDA graph
ROOFLINE_ROWS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class DeviceProfile:
    """An edge device. `source` names the measurement; `prefill_tokens` may be infinite, for prompts at no cost.

    A draft forward takes up to `max_requests` positions of one tree in the same time: it is bound by reading weights.
    """

    name: str
    forward_seconds: float
    source: str
    prefill_tokens: float = PREFILL_TOKENS
    max_requests: int = MAX_REQUESTS_PER_SESSION

    def prefill_seconds(self, tokens: int) -> float:
        return self.forward_seconds * math.ceil(tokens / self.prefill_tokens)


@dataclass(frozen=True)
class LinkProfile:
    """A link. `rtt` and `jitter` (mean of an exponential delay per direction) are in seconds, rates in bits per second.

    Messages are lost with probability `loss`; TCP sends them again, and later ones wait for them.
    """

    name: str
    rtt: float
    jitter: float = 0.0
    loss: float = 0.0
    uplink_bps: float = 50e6
    downlink_bps: float = 200e6

    def with_rtt(self, rtt: float) -> LinkProfile:
        return replace(self, name=f"{1e3 * rtt:.0f} ms", rtt=rtt)


@dataclass(frozen=True)
class EdgeProfile:
    """What every stream's agent is: its device, its link, its draft model, and whether it also uses prompt lookup."""

    device: DeviceProfile
    link: LinkProfile
    draft_model: DraftModel
    prompt_lookup: bool = True


KHMEL = "LFM2.5-1.2B Q4_K_M in llama.cpp, pavlokhmel.com/llm_throughput_benchmark_on_13_gpus_and_10_models.html (2026)"
DEVICES = {
    "rtx-4090": DeviceProfile("RTX 4090", 1 / 741, f"741 tokens/s, {KHMEL}"),
    "m5": DeviceProfile("Apple M5", 1 / 158, f"158 tokens/s, {KHMEL}"),
    "laptop": DeviceProfile(
        "RTX 4060 Laptop", 1 / 55, "55 tokens/s, Phi-3 Mini 3.8B Q4_0 in Ollama, substrate.lol/site/benchmarks (2026)"
    ),
    "phone": DeviceProfile(
        "Snapdragon 8 Elite",
        1 / 16,
        "16 tokens/s, Llama-3.2-1B on the NPU, huggingface.co/runanywhere/llama3_2_1b_HNPU",
    ),
}
LINKS = {
    "fibre": LinkProfile("fibre", 0.015, 0.001),
    "cable": LinkProfile("cable", 0.030, 0.003, 0.0005, uplink_bps=20e6),
    "mobile": LinkProfile("mobile", 0.050, 0.010, 0.005, uplink_bps=10e6, downlink_bps=50e6),
}


def a100_steps(parameters: float) -> StepCosts:
    """Computed step costs on an A100 in bfloat16: weights read once, two operations per weight and row."""
    return _roofline_steps(parameters, A100_BANDWIDTH, A100_FLOPS)


def h100_steps(parameters: float) -> StepCosts:
    """The same on an H100."""
    return _roofline_steps(parameters, H100_BANDWIDTH, H100_FLOPS)


def rtx_4090_forward(parameters: float, bits: float) -> float:
    """Computed seconds of a draft forward on an RTX 4090 with weights of `bits` each, read once."""
    return parameters * bits / 8 / RTX_4090_BANDWIDTH + OVERHEAD_SECONDS


def _roofline_steps(parameters: float, bandwidth: float, flops: float) -> StepCosts:
    costs = StepCosts()
    for rows in ROOFLINE_ROWS:
        memory, arithmetic = 2 * parameters / bandwidth, 2 * parameters * rows / flops
        costs.record(rows, max(LAUNCH_SECONDS, memory, arithmetic))
    return costs
