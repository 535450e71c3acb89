"""What replicas say to each other: wire.py's Open, Draft, Commit and Close, and who may have a seat at whose agent.

A replica dials another one to borrow agents that are attached there. Session numbers are the borrower's, counted up.
Towards the borrower a Close says that the seat is gone, with the agent or because there is none to be had.
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
    """To the lender: a session of this owner wants an agent, now or when one has room. Close takes it back."""

    session: SessionId
    tenant: OwnerName
    owner: OwnerName
    fingerprint: Name
    vocab_size: VocabSize


class SlotQueued(Struct, frozen=True, tag="full", array_like=True):
    """To the borrower: no agent has room; the session waits in line."""

    session: SessionId


class SlotGranted(Struct, frozen=True, tag="granted", array_like=True):
    """To the borrower: a seat is held at this agent, where `running` sessions now are. An Open takes it."""

    session: SessionId
    agent: Name
    running: Count


class SlotUsage(Struct, frozen=True, tag="spent", array_like=True):
    """To the borrower: the agent's time that was the session's so far, and how many share the agent now."""

    session: SessionId
    seconds: Seconds
    running: Count


ToHost = RequestSlot | Open | Commit | Close
ToRequester = SlotGranted | SlotQueued | Draft | SlotUsage | Close

to_host: FrameDecoder[ToHost] = FrameDecoder(ToHost, MAX_FRAME)  # type: ignore[arg-type]
to_requester: FrameDecoder[ToRequester] = FrameDecoder(ToRequester, MAX_FRAME)  # type: ignore[arg-type]
