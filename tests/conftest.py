"""What holds for all tests: nothing that a user keeps here is read or written, and torch takes one thread."""

from __future__ import annotations

import os
import sys

import pytest

os.environ["EDGEDRAFT_PAST_OUTPUTS"] = "false"

# Set to 1, some tests run as long as their subject deserves; without it, as long as every change can wait for.
THOROUGH = os.environ.get("EDGEDRAFT_THOROUGH") == "1"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """On a machine that has anything else to do several threads wait for each other: up to ten times as long."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
