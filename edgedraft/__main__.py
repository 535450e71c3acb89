"""`python -m edgedraft` is the `edgedraft` command: for launchers that start modules, as torchrun does."""

from __future__ import annotations

from edgedraft.cli import main

main()
