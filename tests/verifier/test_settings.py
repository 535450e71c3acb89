"""The verifier's settings."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from verifier.settings import VerifierSettings


@pytest.mark.parametrize(
    ("text", "cpus"), [("", ()), ("3", (3,)), ("0-3", (0, 1, 2, 3)), ("0-1,16, 5", (0, 1, 16, 5)), ("7,", (7,))]
)
def test_cpus_are_numbers_and_ranges(text: str, cpus: tuple[int, ...]) -> None:
    assert VerifierSettings.model_validate({"cpus": text}).cpus == cpus


def test_cpus_that_are_no_numbers_are_rejected() -> None:
    with pytest.raises(ValidationError):
        VerifierSettings.model_validate({"cpus": "a-b"})


@pytest.mark.parametrize(
    "wrong", [{"max_sessions": 0}, {"verify_nodes": 257}, {"wait_share": 1.5}, {"engine": "other"}]
)
def test_values_out_of_bounds_are_rejected(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        VerifierSettings.model_validate(wrong)
