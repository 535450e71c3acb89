"""Messages between replicas: wire.py's Open, Draft, Commit and Close, and those that grant slots at agents.

The requesting replica connects to the host replica, which has the agent. Session numbers are the requesting replica's,
counted up from 1. A Close from the host means that the session has no slot: its agent is gone, or none can be had.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from edgedraft.wire import (
    MAX_FRAME,
    Close,
    Commit,
    Count,
    Draft,
    FrameDecoder,
    Name,
    Open,
    Seconds,
    SessionId,
    VocabSize,
)

PROTOCOL = 1
PATH = f"/v1/replica/{PROTOCOL}"
CHALLENGE_HEADER, RESPONSE_HEADER = "x-edgedraft-call", "x-edgedraft-answer"

OwnerName = Annotated[str, Meta(max_length=1024)]


class RequestSlot(Struct, frozen=True, tag="seek", array_like=True):
    """To the host: a session of this owner wants an agent, now or when one has a free slot. Close withdraws it."""

    session: SessionId
    tenant: OwnerName
    owner: OwnerName
    fingerprint: Name
    vocab_size: VocabSize


class SlotQueued(Struct, frozen=True, tag="full", array_like=True):
    """To the requesting replica: no agent has a free slot; the session is queued."""

    session: SessionId


class SlotGranted(Struct, frozen=True, tag="granted", array_like=True):
    """To the requesting replica: a slot is reserved at this agent, which now has `running` sessions. Open takes it.

    `device` is one of edgedraft/devices.py.
    """

    session: SessionId
    agent: Name
    running: Count
    device: Name = ""


class SlotUsage(Struct, frozen=True, tag="spent", array_like=True):
    """To the requesting replica: the session's share of the agent's time so far, and the agent's open sessions."""

    session: SessionId
    seconds: Seconds
    running: Count


ToHost = RequestSlot | Open | Commit | Close
ToRequester = SlotGranted | SlotQueued | Draft | SlotUsage | Close

decode_to_host: FrameDecoder[ToHost] = FrameDecoder(ToHost, MAX_FRAME)  # type: ignore[arg-type]
decode_to_requester: FrameDecoder[ToRequester] = FrameDecoder(ToRequester, MAX_FRAME)  # type: ignore[arg-type]
