"""What the engine does on CUDA only when asked: the paged attention kernel and CUDA graphs, beside gathered attention.

The kernel is compared with gathered attention, and a model that uses both compares itself when it is made. Then the
three ways are timed. A kernel that reads a wrong address breaks the device for this process, so this comes last.
"""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import torch

from edgedraft.runtime.attention import UnsupportedModel
from edgedraft.runtime.attention_check import (
    LARGEST_DIFFERENCE,
    CheckedSequence,
    HeadShape,
    compare_attention,
    compare_layers,
)
from edgedraft.runtime.paged_attention import check_available
from loadtest.gpu_check.costs.timing import (
    branching_rows,
    cache_contexts,
    milliseconds,
    random_contexts,
    release,
    time_call,
)
from loadtest.gpu_check.exactness.pairs import TINY_TARGET
from loadtest.gpu_check.report import Section
from loadtest.gpu_check.shapes import SHAPES, Shape, random_packed
from loadtest.report import Result

DTYPES = (torch.bfloat16, torch.float32)
WINDOW = 24
WAYS: dict[str, dict[str, Any]] = {
    "gathered": {},
    "paged": {"attention": "paged"},
    "replayed": {"attention": "paged", "cuda_graphs": True},
}


def check_kernels(section: Section, device: torch.device, tiny: bool) -> None:
    """That they cannot run here, for want of Triton, is a note and no fault: the engine does not need them."""
    try:
        check_available(device)
    except ValueError as error:
        section.notes.append(f"not run: {error}")
        return
    heads = [HeadShape(2, 3, 16, 16)] if tiny else [HeadShape(8, 8, 128, 128), HeadShape(8, 2, 128, 128)]
    for shape, dtype in product(heads, DTYPES):
        name = (
            f"{shape.kv_heads * shape.group}/{shape.kv_heads} heads of {shape.dim}, {str(dtype).removeprefix('torch.')}"
        )
        if section.is_over:
            section.skipped.append(name)
            continue
        for case, difference in (
            ("tiles of every size", compare_layers([(shape, None), (shape, WINDOW)], dtype, device)),
            ("many trees", compare_attention(shape, _many_trees(tiny), dtype, device)),
        ):
            allowed = LARGEST_DIFFERENCE[dtype]
            section.check(f"{case}, {name}", difference <= allowed, largest_difference=difference, allowed=allowed)
    _time_ways(section, device, TINY_TARGET if tiny else SHAPES["qwen3-1.7b"], tiny)


def _many_trees(tiny: bool) -> list[CheckedSequence]:
    dice = random.Random(3)
    count, longest = (3, 40) if tiny else (32, 3000)
    return [
        CheckedSequence(dice.randint(0, longest), [dice.randint(-1, row - 1) for row in range(dice.randint(1, 24))])
        for _ in range(count)
    ]


@torch.inference_mode()
def _time_ways(section: Section, device: torch.device, shape: Shape, tiny: bool) -> None:
    """Forwards of the same rows in each way, packing included."""
    context, sizes, repeats = (32, ((1, 1), (2, 2)), 1) if tiny else (2048, ((1, 1), (1, 16), (16, 1), (16, 4)), 10)
    most = max(sessions for sessions, _ in sizes)
    contexts = random_contexts(most, context, shape.vocab)
    table: dict[tuple[int, int], dict[str, Any]] = {size: {"sessions": size[0], "rows_each": size[1]} for size in sizes}
    for way, options in WAYS.items():
        if section.is_over:
            section.skipped.append(f"times of {way}")
            continue
        try:
            packed = random_packed(shape, torch.bfloat16, device, (most + 1) * (context + 64), **options)
        except UnsupportedModel as error:
            section.check(f"a model with attention {way}", False, reason=str(error))
            continue
        cache_contexts(packed, contexts)
        for size, row in table.items():
            rows = branching_rows(packed, contexts[: size[0]], size[1])
            row[f"{way}_ms"] = milliseconds(min(time_call(lambda: packed.forward(rows), device, repeats)))  # noqa: B023
            release(rows)
    note = f"{shape.name} on random weights in bfloat16, {context} tokens of context, the fastest of {repeats}"
    section.tables.append(
        Result("a forward with keys gathered, with the kernel, and replayed", [*table.values()], {}, {}, [note])
    )
