"""Raising the limit of open files, with the system's calls replaced: the limit of the test run stays as it is."""

from __future__ import annotations

import sys

import pytest

from edgedraft.serving.open_files import allow_many_files

if sys.platform == "win32":
    pytest.skip("Windows has no such limit", allow_module_level=True)

import resource


def set_limits(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, error: Exception | None) -> list[tuple[int, int]]:
    """Replaces the process's limits. Returns the list of limits that are set."""
    calls: list[tuple[int, int]] = []

    def setrlimit(which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        calls.append(limits)
        if error:
            raise error

    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    return calls


def test_the_soft_limit_is_raised_to_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = set_limits(monkeypatch, 1024, 4096, None)
    assert allow_many_files() == 4096
    assert calls == [(4096, 4096)]


def test_a_limit_that_is_high_enough_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = set_limits(monkeypatch, 4096, 4096, None)
    assert allow_many_files() == 4096
    assert not calls


@pytest.mark.parametrize("error", [OSError(), ValueError()])
def test_the_old_limit_stays_where_the_system_refuses(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    set_limits(monkeypatch, 256, 2**62, error)
    assert allow_many_files() == 256


def test_a_system_without_limits_is_a_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert allow_many_files() == 0
