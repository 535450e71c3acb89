"""What was recorded once: the target's texts and the draft model's guesses, in the cache folder.

The file's name is a digest of all that they depend on, the weights of the draft included. Texts are held to the
running target all the same, and a guess decides about speed alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from edge_agent.drafters.draft_model import shipped_draft
from edgedraft.local.demo_model import DEMO_MODEL, cache_root

Text = tuple[int, ...]
# A place (drafts.py), and the tokens, parents and probabilities of the guesses there.
Known = tuple[int, int, Text, Text, Text, tuple[float, ...]]


class Record(msgspec.Struct, array_like=True):
    """Texts by temperature, in the order of the requests, and the guesses."""

    texts: dict[str, list[Text]]
    guesses: list[Known]


def record_file(*depends_on: object) -> Path:
    """Where the record of these circumstances is kept."""
    digest = hashlib.sha256(repr(depends_on).encode())
    if folder := shipped_draft(DEMO_MODEL):
        for file in sorted(Path(folder).iterdir()):
            digest.update(file.read_bytes())
    return cache_root() / f"bench-seed-{digest.hexdigest()[:16]}.msgpack"


def read(file: Path) -> Record | None:
    """None where there is none, or none that can be read."""
    try:
        return msgspec.msgpack.decode(file.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def write(file: Path, record: Record) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_bytes(msgspec.msgpack.encode(record))
    part.replace(file)
