"""Which device and which number format a model runs in, when the user leaves it to us. For the torch processes only."""

from __future__ import annotations

import os
from contextlib import suppress

import torch

# For each shape that a product has met oneDNN keeps its code, and torch, by kind of product, what describes it: 0.6 MiB
# together. Left alone each keeps the last 1024, and a process grows for hours. With so many a step under mixed load
# makes 0.2 anew at most, as it does with 1024; where rows vary more, one costs a millisecond of a longer step.
PRIMITIVES = 128
_CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def use_cores(threads: int, cpus: tuple[int, ...]) -> None:
    """Keep this process, also the threads that libraries have started, on `cpus` (Linux), one torch thread on each.

    No cpus: wherever the system likes. `threads` other than 0 says how many there are instead.

    Raises ValueError for cpus that this process may not use, or where the system cannot do it.
    """
    if cpus:
        if not hasattr(os, "sched_setaffinity"):
            raise ValueError("this system does not let a process choose its cpus")
        allowed = os.sched_getaffinity(0)
        if not allowed.issuperset(cpus):
            raise ValueError(f"cpus {sorted({*cpus} - allowed)} cannot be used here, only {sorted(allowed)}")
        for thread in os.listdir("/proc/self/task"):
            with suppress(ProcessLookupError):  # it has ended since
                os.sched_setaffinity(int(thread), cpus)
    if threads or cpus:
        torch.set_num_threads(threads or len(set(cpus)))


def limit_primitive_cache() -> None:
    """Keep few of oneDNN's compiled products, where the environment does not say how many. Before the first forward."""
    for name in _CAPACITIES:
        os.environ.setdefault(name, str(PRIMITIVES))


def pick_device(name: str) -> torch.device:
    """`name` as a device; "auto" is the first of CUDA, MPS and CPU that is there."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def has_bfloat16_products(device: torch.device) -> bool:
    """Whether matrix products run in bfloat16 there: a CPU without AVX-512 or its like only imitates them, slowly."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pick_dtype(name: str, device: torch.device, exact: bool = True) -> torch.dtype:
    """`name` as a dtype; "auto" is float32 on a CPU and bfloat16 elsewhere.

    Where it need not be `exact`, as in a draft, a CPU that calculates in bfloat16 does so too: half the memory to read.
    """
    if name != "auto":
        return DTYPES[name]
    if device.type == "cpu" and (exact or not torch.cpu._is_avx512_bf16_supported()):
        return torch.float32
    return torch.bfloat16
