"""The check of the engine's kernel and graphs: a note where they cannot run, and failed where they compute wrongly."""

from __future__ import annotations

import pytest
import torch

from loadtest.gpu_check.exactness.kernels import check_kernels
from loadtest.gpu_check.report import Section
from tests.support.triton_interpreter import IS_INTERPRETED, limit_static_forwards, runs_interpreted

CPU = torch.device("cpu")


@pytest.mark.skipif(IS_INTERPRETED, reason="here they can run")
def test_on_a_cpu_a_note_says_that_they_cannot_run(section: Section) -> None:
    check_kernels(section, CPU, tiny=True)
    (note,) = section.notes
    assert "paged attention" in note
    assert not section.checks


@pytest.mark.parametrize("right", [pytest.param(right, marks=runs_interpreted) for right in (True, False)])
def test_each_way_is_compared_and_timed(section: Section, right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgedraft.runtime import paged_kernel

    limit_static_forwards(monkeypatch)
    if not right:
        monkeypatch.setattr(paged_kernel, "LOG2_E", 1.1 * paged_kernel.LOG2_E)
    check_kernels(section, CPU, tiny=True)
    assert {check.passed for check in section.checks} == {right}
    times = {"gathered_ms", "paged_ms", "replayed_ms"} if right else {"gathered_ms"}
    for row in section.tables[0].rows:
        assert row.keys() == {"sessions", "rows_each"} | times
    assert not section.skipped
