"""The mark of tests that run the CUDA kernels on a CPU, in Triton's interpreter: `make test-triton`."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None

runs_interpreted = [
    pytest.mark.triton,
    pytest.mark.skipif(not IS_INTERPRETED, reason="runs in Triton's interpreter, with `make test-triton`"),
]


def limit_static_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Static forwards of up to 16 rows, in two sizes: the interpreter computes a program in milliseconds."""
    from edgedraft.runtime import static_forward

    monkeypatch.setattr(static_forward, "ROW_COUNTS", (4, 16))
    monkeypatch.setattr(static_forward, "MIN_SPLITS", 2)
