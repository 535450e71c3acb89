"""A draft model that is loaded, or a server of one: makes drafters for targets with its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.drafters.interface import Drafter


@dataclass(frozen=True)
class LoadedModel:
    """A loaded draft model. `new_drafter(vocab_size)` makes a drafter for a target with that vocabulary size.

    `device` says what runs it (edgedraft/devices.py).
    """

    new_drafter: Callable[[int], Drafter]
    fingerprint: str
    description: str
    device: str = ""
