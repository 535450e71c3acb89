"""`python compile_paged_kernel.py CAPABILITY TYPE`: the attention kernel compiled for a GPU that need not be there.

Prints, as JSON, what each variant takes: bytes of shared memory, bytes of registers that are spilled to memory, and
whether it multiplies on tensor cores. Not under TRITON_INTERPRET=1.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from edgedraft.runtime import paged_kernel

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
TABLES = {"tree_masks": "*u8", "partials": "*fp32", "statistics": "*fp32", "scale": "fp32"}
TENSORS = ("query", "keys", "values", "out")
STRIDES = ("kv_head_stride", "head_stride", "row_stride")
GROUP = 4


def compile_kernel(capability: int, dtype: str, dim: int, tile: int, window: int) -> dict[str, Any]:
    columns = paged_kernel.num_columns(dim)
    constants = {
        "KV_HEADS": 8,
        "GROUP": GROUP,
        "DIM": dim,
        "VALUE_DIM": dim,
        "KEY_COLUMNS": columns,
        "VALUE_COLUMNS": columns,
        "TILE": tile,
        "KEY_TILE": paged_kernel.key_tile(columns, DTYPES[dtype].itemsize),
        "BLOCK": 16,
        "WINDOW": window,
        "WIDEN": False,
    }
    kernel: Any = paged_kernel._attend
    names: list[str] = kernel.arg_names
    kinds = (
        TABLES
        | dict.fromkeys(TENSORS, f"*{dtype}")
        | dict.fromkeys(STRIDES, "i32")
        | dict.fromkeys(constants, "constexpr")
    )
    signature = {name: kinds.get(name, "*i32") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in ("scale", *constants)}
    options = {"num_warps": paged_kernel.num_warps(tile), "num_stages": paged_kernel.NUM_STAGES}
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(ASTSource(kernel, signature, constants, aligned), target=target, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        program = Path(triton.__path__[0]) / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.run([program, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {
        "dim": dim,
        "tile": tile,
        "window": window,
        "shared": made.metadata.shared,
        "spilled": sum(int(number) for number in re.findall(r"(?:STACK|LOCAL):(\d+)", usage)),
        "tensor_cores": bool(re.search(r"mma\.sync|wgmma|tcgen05\.mma", made.asm["ptx"])),
    }


if __name__ == "__main__":
    sizes = paged_kernel.tile_sizes(GROUP, DTYPES[sys.argv[2]])
    variants = [(dim, tile, 0) for dim in (64, 128) for tile in sizes] + [(128, sizes[-1], 4096)]
    print(json.dumps([compile_kernel(int(sys.argv[1]), sys.argv[2], *variant) for variant in variants]))
