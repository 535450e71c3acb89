"""Logs: one line each on stderr, with time, level and speaker. Prompts, texts and token ids never enter them."""

from __future__ import annotations

import logging


def configure_logging(level: str) -> None:
    """Set up the root logger for a process; `level` is a settings.log_level."""
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S", force=True
    )
    for noisy in ("httpx", "httpcore", "websockets", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
