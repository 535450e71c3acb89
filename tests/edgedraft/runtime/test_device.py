"""A process stays on the CPUs that it was given, and does not grow with the shapes that it meets."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from edgedraft.runtime.device import pin_to_cpus
from verifier.settings import VerifierSettings

SCRIPT = """
import os, sys, threading, torch
from edgedraft.runtime.device import pin_to_cpus
cpu = min(os.sched_getaffinity(0))
pin_to_cpus(0, (cpu,))
assert torch.get_num_threads() == 1
(torch.ones(512, 512) @ torch.ones(512, 512)).sum().item()
for thread in os.listdir("/proc/self/task"):
    assert os.sched_getaffinity(int(thread)) == {cpu}, thread
pin_to_cpus(3, ())
assert torch.get_num_threads() == 3
"""

MANY_SHAPES = """
import psutil
from edgedraft.runtime import packed_linear
from edgedraft.runtime.packed_model import PackedModel, SequenceRows
from tests.support.tiny_llama import tiny_llama

packed_linear._is_packing_faster = lambda weights: True  # where nothing is packed, nothing is cached
shape = dict(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4)
model = PackedModel(tiny_llama(**shape, attn_implementation="sdpa"), 512)
sequence = model.new_block_table()

def grown(shapes):
    before = psutil.Process().memory_info().rss
    for rows in shapes:
        model.forward([SequenceRows(sequence, [1] * rows, logit_rows=range(rows))])
    return (psutil.Process().memory_info().rss - before) / (1 << 20)

grown(range(300, 230, -1))  # more than fit, the largest first: what comes then needs no more room for itself
print(grown(range(1, 200)))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_every_thread_of_a_pinned_process_stays_on_its_cpus() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
    with pytest.raises(ValueError, match="cannot be used"):
        pin_to_cpus(0, (100_000,))


def test_a_process_that_met_many_shapes_grows_by_no_more() -> None:
    done = subprocess.run([sys.executable, "-c", MANY_SHAPES], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100, "MiB; oneDNN by itself takes over 300"


def test_cpus_are_spelt_as_taskset_spells_them() -> None:
    assert VerifierSettings.model_validate({"cpus": "0-2,7"}).cpus == (0, 1, 2, 7)
    assert VerifierSettings.model_validate({}).cpus == ()
    with pytest.raises(ValidationError):
        VerifierSettings.model_validate({"cpus": "0-x"})
