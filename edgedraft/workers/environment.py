"""The environment of child processes that work on strangers' input: what Python needs to start, and no secret."""

from __future__ import annotations

from edgedraft.child_process import minimal_environment


def bare_environment() -> dict[str, str]:
    """The variables of this process that a child may have, and one thread for each library in it."""
    return minimal_environment() | {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
