"""`python -m edgedraft` runs the `edgedraft` command, for launchers that start modules, such as torchrun."""

from __future__ import annotations

from edgedraft.cli import main

main()
