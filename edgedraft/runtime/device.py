"""Device, dtype, CPU affinity and oneDNN settings of a process that runs a model. Needs torch."""

from __future__ import annotations

import os
from contextlib import suppress

import torch

# oneDNN caches compiled code per shape of product, and torch a description per kind of product, 0.6 MiB together. By
# default each keeps the last 1024, and a process grows for hours. With 128, a step under mixed load compiles 0.2 new
# ones at most, the same as with 1024. Where row counts vary more, compiling one adds a millisecond to a longer step.
PRIMITIVE_CACHE_SIZE = 128
_CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pin_to_cpus(threads: int, cpus: tuple[int, ...]) -> None:
    """Pin this process and threads that libraries have started to `cpus` (Linux), with one torch thread per CPU.

    Without cpus the affinity stays. `threads` other than 0 sets the number of torch threads.

    Raises ValueError for cpus that this process may not use, or where the system has no CPU affinity.
    """
    if cpus:
        if not hasattr(os, "sched_setaffinity"):
            raise ValueError("this system does not let a process choose its cpus")
        allowed = os.sched_getaffinity(0)
        if not allowed.issuperset(cpus):
            raise ValueError(f"cpus {sorted({*cpus} - allowed)} cannot be used here, only {sorted(allowed)}")
        for thread in os.listdir("/proc/self/task"):
            with suppress(ProcessLookupError):  # the thread has ended
                os.sched_setaffinity(int(thread), cpus)
    if threads or cpus:
        torch.set_num_threads(threads or len(set(cpus)))


def limit_primitive_cache() -> None:
    """Limit oneDNN's cache of compiled products unless the environment sets it. Call before the first forward."""
    for name in _CAPACITIES:
        os.environ.setdefault(name, str(PRIMITIVE_CACHE_SIZE))


def pick_device(name: str) -> torch.device:
    """`name` as a device; "auto" is the first of CUDA, MPS and CPU that is available."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def has_bfloat16_matmul(device: torch.device) -> bool:
    """Whether the device has bfloat16 matrix products in hardware. Older CPUs emulate them, slowly."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pick_dtype(name: str, device: torch.device, exact: bool = True) -> torch.dtype:
    """`name` as a dtype; "auto" is float32 on a CPU and bfloat16 elsewhere.

    Where the model need not be `exact` (a draft model), a CPU with bfloat16 instructions uses bfloat16 too: half as
    many bytes to read.
    """
    if name != "auto":
        return DTYPES[name]
    if device.type == "cpu" and (exact or not torch.cpu._is_avx512_bf16_supported()):
        return torch.float32
    return torch.bfloat16
