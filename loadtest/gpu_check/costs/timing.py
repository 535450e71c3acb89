"""Times steps and forwards on a device: contexts without computing them, waiting for the device, CUDA graphs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from edgedraft.runtime.packed_model import PackedModel, SequenceRows

WARM_UP_CALLS = 2


@dataclass(frozen=True)
class Hardware:
    """Measured on the device: bytes moved per second by a copy, and operations per second of a large product."""

    bandwidth: float
    flops: float

    def least_seconds(self, read_bytes: float, operations: float) -> float:
        """What a step takes at least that reads and computes so much."""
        return max(read_bytes / self.bandwidth, operations / self.flops)


@torch.inference_mode()
def measure_hardware(device: torch.device, dtype: torch.dtype, copied: int, side: int, repeats: int) -> Hardware:
    """A copy of `copied` bytes, counted twice, and a product of two square matrices of `side`, the fastest of each."""
    source = torch.ones(copied, dtype=torch.uint8, device=device)
    destination = torch.empty_like(source)
    copy = min(time_call(lambda: destination.copy_(source), device, repeats))
    left, right = (torch.randn((side, side), dtype=dtype, device=device) for _ in range(2))
    product = min(time_call(lambda: left @ right, device, repeats))
    return Hardware(2 * copied / copy, 2 * side**3 / product)


def time_call(call: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, until the device has done their work; the first calls only warm up."""
    seconds: list[float] = []
    for i in range(WARM_UP_CALLS + repeats):
        wait_for(device)
        began = time.perf_counter()
        call()
        wait_for(device)
        if i >= WARM_UP_CALLS:
            seconds.append(time.perf_counter() - began)
    return seconds


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def as_graph(call: Callable[[], torch.Tensor], device: torch.device) -> Callable[[], torch.Tensor]:
    """`call` captured in a CUDA graph, which launches its kernels at once; on a CPU `call` itself.

    The call must not wait for the device or copy anything to it. Raises RuntimeError where it does.
    """
    if device.type != "cuda":
        return call
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_CALLS + 1):
            call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay


@dataclass(frozen=True)
class ForwardTimes:
    """Seconds of a packed forward: with all that is prepared and launched for it; from a CUDA graph, where timed."""

    forward: float
    replayed: float | None


@torch.inference_mode()
def time_forward(
    packed: PackedModel,
    rows: Sequence[SequenceRows],
    repeats: int,
    with_graph: bool,
    finish: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits,
) -> ForwardTimes:
    """`finish` is done with the logits too, in both. Raises RuntimeError if `with_graph` and none can be captured."""
    device = packed.device
    forward = median(time_call(lambda: finish(packed.forward(rows)), device, repeats))
    if not with_graph:
        return ForwardTimes(forward, None)
    inputs = packed.pack(rows)
    replay = as_graph(lambda: finish(packed.model(**inputs).logits[0]), device)
    return ForwardTimes(forward, median(time_call(replay, device, repeats)))


def random_contexts(sessions: int, tokens: int, vocab: int) -> list[list[int]]:
    """A text of `tokens` and one more for each session."""
    return [random.Random(key).choices(range(vocab), k=tokens + 1) for key in range(sessions)]


def cache_contexts(packed: PackedModel, contexts: Sequence[Sequence[int]]) -> None:
    """Puts all but each context's last token into the prefix cache as if computed, under the salt of its index.

    Keys and values there are whatever the cache holds, on which no time depends. The length must be of full blocks.
    """
    for key, context in enumerate(contexts):
        table = packed.new_block_table(str(key))
        table.reserve_slots(len(context) - 1)
        table.keep_accepted(range(len(context) - 1))
        table.cache_blocks(context)
        table.truncate(0)


def branching_rows(packed: PackedModel, contexts: Sequence[Sequence[int]], rows: int) -> list[SequenceRows]:
    """Rows behind each cached context: its last token and two branches behind that, with logits of all of them.

    `release` the tables afterwards.
    """
    found = []
    for key, context in enumerate(contexts):
        table = packed.new_block_table(str(key))
        table.match_prefix(context)
        parents = [-1, *(max(0, row - 2) for row in range(1, rows))]
        tokens = [context[-1], *context[1:rows]]
        found.append(SequenceRows(table, tokens, parents, range(rows)))
    return found


def release(rows: Sequence[SequenceRows]) -> None:
    """Frees the blocks of these rows."""
    for item in rows:
        item.block_table.truncate(0)
