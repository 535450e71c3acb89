"""A process stays on the CPUs that it was given."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from edgedraft.settings import VerifierSettings
from edgedraft.torch_device import use_cores

SCRIPT = """
import os, sys, threading, torch
from edgedraft.torch_device import use_cores
cpu = min(os.sched_getaffinity(0))
use_cores(0, (cpu,))
assert torch.get_num_threads() == 1
(torch.ones(512, 512) @ torch.ones(512, 512)).sum().item()
for thread in os.listdir("/proc/self/task"):
    assert os.sched_getaffinity(int(thread)) == {cpu}, thread
use_cores(3, ())
assert torch.get_num_threads() == 3
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_every_thread_of_a_pinned_process_stays_on_its_cpus() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
    with pytest.raises(ValueError, match="cannot be used"):
        use_cores(0, (100_000,))


def test_cpus_are_spelt_as_taskset_spells_them() -> None:
    assert VerifierSettings.model_validate({"cpus": "0-2,7"}).cpus == (0, 1, 2, 7)
    assert VerifierSettings.model_validate({}).cpus == ()
    with pytest.raises(ValidationError):
        VerifierSettings.model_validate({"cpus": "0-x"})
