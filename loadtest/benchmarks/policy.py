"""`bench policy`: the verifier's step scheduling with drafts of given acceptance (loadtest/policy)."""

from __future__ import annotations

from loadtest.policy.bigger_draft import compare_bigger_drafts
from loadtest.policy.capacity import measure_capacity
from loadtest.policy.comparison import compare
from loadtest.report import Result
from loadtest.settings import BenchSettings


def policy(settings: BenchSettings) -> Result:
    """Compares all systems in every cell of the settings' grid.

    With `--capacity` it compares the streams that they carry, with `--bigger-acceptance` drafts that only devices run.
    """
    if settings.capacity:
        return measure_capacity(settings)
    return compare_bigger_drafts(settings) if settings.bigger_acceptance else compare(settings)
