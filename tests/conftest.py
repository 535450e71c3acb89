"""What holds for all tests: nothing that a user keeps here is read or written, and tiny models take one thread."""

from __future__ import annotations

import os
import sys

import pytest

os.environ["EDGEDRAFT_PAST_OUTPUTS"] = "false"


@pytest.fixture(autouse=True)
def _threads_by_the_size_of_the_model(request: pytest.FixtureRequest) -> None:
    """On tiny matrices several threads wait for each other: on a busy machine ten times as long as one takes."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(2 if "demo_target" in request.fixturenames else 1)
