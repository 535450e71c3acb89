"""A section of a report that has time."""

from __future__ import annotations

import math

import pytest

from loadtest.gpu_check.report import Section


@pytest.fixture
def section() -> Section:
    return Section("checked", "What is checked", math.inf)
