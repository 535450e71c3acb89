"""The rules of conftest.py: torch takes one thread, in fixtures of a module and in started processes too."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
