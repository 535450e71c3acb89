"""What is checked and where: commit, date, versions, processor, device, its memory and driver."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from edgedraft import __version__

ROOT = Path(__file__).parents[2]
PACKAGES = ("transformers", "triton", "numpy", "llguidance", "msgspec")
QUERIES = ("driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit")
UNKNOWN = "unknown"


def describe_machine(device: torch.device, commit: str) -> dict[str, Any]:
    """`commit` is the one that the caller names; empty to ask git."""
    facts: dict[str, Any] = {
        "commit": commit or read_commit(ROOT),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "edgedraft": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA of torch": torch.version.cuda or "none",
        "cuDNN": torch.backends.cudnn.version() or "none",
        **{name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "processor": f"{_processor()}, {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}",
        "device": device.type,
    }
    return facts | (_describe_gpu(device) if device.type == "cuda" else {})


def read_commit(folder: Path) -> str:
    """The commit that is checked out in `folder`, marked where files differ from it; UNKNOWN without git."""
    top = _output(["git", "-C", str(folder), "rev-parse", "--show-toplevel"])
    if not top or Path(top).resolve() != folder.resolve():
        return UNKNOWN
    commit = _output(["git", "-C", str(folder), "rev-parse", "HEAD"])
    changed = _output(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    return f"{commit} with changes" if changed else commit or UNKNOWN


def _describe_gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    facts: dict[str, Any] = {
        "GPU": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} free",
        "GPUs": torch.cuda.device_count(),
    }
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERIES)}", "--format=csv,noheader", f"--id={device.index or 0}"]
    answers = [answer.strip() for answer in _output(command).split(",")]
    if len(answers) != len(QUERIES):
        answers = [UNKNOWN] * len(QUERIES)
    return facts | dict(zip(QUERIES, answers, strict=True))


def _output(command: Sequence[str]) -> str:
    """What a command prints, without spaces around it; empty where there is no such command or it fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or UNKNOWN
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
