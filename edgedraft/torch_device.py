"""Which device and which number format a model runs in, when the user leaves it to us. For the torch processes only."""

from __future__ import annotations

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """`name` as a device; "auto" is the first of CUDA, MPS and CPU that is there."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(name: str, device: torch.device, exact: bool = True) -> torch.dtype:
    """`name` as a dtype; "auto" is float32 on a CPU and bfloat16 elsewhere.

    Where it need not be `exact`, as in a draft, a CPU that calculates in bfloat16 does so too: half the memory to read.
    """
    if name != "auto":
        return DTYPES[name]
    if device.type == "cpu" and (exact or not torch.cpu._is_avx512_bf16_supported()):
        return torch.float32
    return torch.bfloat16
