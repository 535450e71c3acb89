"""The rules of conftest.py: torch takes one thread, in started processes too, and complete services have one worker."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from edgedraft.observability.logs import PACKAGES, configure_logging
from tests.conftest import SERVICES, group_of, restored_logging

_PRINT_THREADS = "import torch; print(torch.get_num_threads())"


@pytest.fixture(scope="module")
def threads_in_a_module_fixture() -> int:
    import torch

    return torch.get_num_threads()


def test_torch_takes_one_thread_in_a_module_fixture(threads_in_a_module_fixture: int) -> None:
    assert threads_in_a_module_fixture == 1


def test_torch_takes_one_thread_in_a_started_process() -> None:
    out = subprocess.run([sys.executable, "-c", _PRINT_THREADS], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "1"


def test_services_share_a_group_and_every_other_file_is_one(request: pytest.FixtureRequest) -> None:
    assert {group_of(f"tests/{folder}/test_a.py::test_b") for folder in SERVICES} == {"services"}
    assert all((Path(__file__).parent / folder).is_dir() for folder in SERVICES)
    assert group_of(request.node.nodeid) == "tests/test_conftest.py"


@pytest.mark.parametrize("level", ["error", "debug"])
def test_logging_is_as_it_was_after_a_program_has_set_it_up(level: str) -> None:
    loggers = [logging.getLogger(name) for name in (None, *PACKAGES)]
    before = [logger.level for logger in loggers], set(loggers[0].handlers)
    with restored_logging():
        configure_logging(level)
        assert ([logger.level for logger in loggers], set(loggers[0].handlers)) != before
    assert ([logger.level for logger in loggers], set(loggers[0].handlers)) == before
