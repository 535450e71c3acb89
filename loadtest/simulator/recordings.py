"""Recordings in the cache folder: the target's texts and the draft model's proposals.

A file's name is a digest of everything that its contents depend on, the draft model's weights included. Texts are
checked against the live target as well; proposals affect speed alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from edge_agent.drafters.pytorch.draft_model import shipped_draft
from edgedraft.local.demo_model import DEMO_MODEL, cache_root

Text = tuple[int, ...]
# A position (draft_model.py), and the proposal's token ids, parents and probabilities.
RecordedProposal = tuple[int, int, Text, Text, Text, tuple[float, ...]]


class Recording(msgspec.Struct, array_like=True):
    """Texts by temperature, in the order of the requests, and proposals."""

    texts: dict[str, list[Text]]
    proposals: list[RecordedProposal]


def recording_file(*depends_on: object) -> Path:
    """Where the recording for these inputs is kept."""
    digest = hashlib.sha256(repr(depends_on).encode())
    if folder := shipped_draft(DEMO_MODEL):
        for file in sorted(Path(folder).iterdir()):
            digest.update(file.read_bytes())
    return cache_root() / f"bench-specedge-{digest.hexdigest()[:16]}.msgpack"


def read_recording(file: Path) -> Recording | None:
    """Returns None if there is no readable recording."""
    try:
        return msgspec.msgpack.decode(file.read_bytes(), type=Recording)
    except (OSError, msgspec.DecodeError):
        return None


def write_recording(file: Path, recording: Recording) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_bytes(msgspec.msgpack.encode(recording))
    part.replace(file)
