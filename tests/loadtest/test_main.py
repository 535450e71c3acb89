"""`edgedraft bench`: an unknown name, and that every name has its function."""

from __future__ import annotations

from importlib import import_module

import pytest

from edgedraft.cli import main
from loadtest.main import NAMES


def test_an_unknown_benchmark_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "nonesuch"])
    assert ended.value.code == 2
    assert "quick" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_is_a_function_of_its_module(name: str) -> None:
    assert callable(getattr(import_module(f"loadtest.benchmarks.{name}"), name))
