"""What holds for all tests: nothing that a user keeps here is read or written, and torch takes one thread."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.topology import Topology

os.environ["EDGEDRAFT_PAST_OUTPUTS"] = "false"

# On a machine that is busy otherwise, torch's threads wait for each other: up to ten times as long. torch reads this
# when it is imported, hence it also holds for fixtures of a module or session, and for the processes of tests.
os.environ["OMP_NUM_THREADS"] = "1"

# Set to 1, some tests run as long as their subject deserves; without it, as long as every change can wait for.
THOROUGH = os.environ.get("EDGEDRAFT_THOROUGH") == "1"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sets it again for each test, since code under test may set it for its process."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """What `edgedraft up --gateways 2 --verifiers 2 --agents 3` starts; whoever breaks a part of it mends it."""
    from tests.support.topology import running  # only for those who want it: it takes processes and packages

    with running(tmp_path_factory.mktemp("topology-logs")) as topology:
        yield topology
