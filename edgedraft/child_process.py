"""How this program starts others: Python without the current folder on its path, and an environment without secrets."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

# What an interpreter or a server needs to start and to find its files; none of it is a secret of ours.
_NEEDED = {
    "HOME",
    "LANG",
    "LANGUAGE",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "PATH",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "TMPDIR",
    "TZ",
    "USER",
    "VIRTUAL_ENV",
}
_NEEDED_PREFIXES = ("LC_", "PYTHON", "COVERAGE_")

# Secrets of each program of ours; the others do not get them.
_SECRETS = {
    "EDGEDRAFT_KEY": {"gateway", "attach", "doctor"},
    "EDGEDRAFT_KEY_FILE": {"gateway", "attach", "doctor"},
    "EDGEDRAFT_DRAFT_KEY": {"attach", "doctor"},
    "EDGEDRAFT_DRAFT_KEY_FILE": {"attach", "doctor"},
    "EDGEDRAFT_VERIFIER_TOKEN": {"gateway", "verifier"},
    "EDGEDRAFT_REPLICA_SECRET": {"gateway"},
    "EDGEDRAFT_REDIS": {"gateway"},
    "EDGEDRAFT_DATABASE": {"gateway", "keys", "tenants", "usage", "db"},
}


def python_command(module: str, *arguments: str) -> list[str]:
    """A command line that runs a module under this interpreter. -P: nothing is imported from the current folder."""
    return [sys.executable, "-P", "-m", module, *arguments]


def minimal_environment() -> dict[str, str]:
    """The environment of a helper process: no key, token, password or setting of this program."""
    return {name: value for name, value in os.environ.items() if name in _NEEDED or name.startswith(_NEEDED_PREFIXES)}


def program_environment(program: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of `edgedraft PROGRAM`: this process's and `extra`, less the secrets of other programs."""
    environment = {**os.environ, **(extra or {})}
    return {name: value for name, value in environment.items() if name not in _SECRETS or program in _SECRETS[name]}
