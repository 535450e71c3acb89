"""Bounds and timeouts of each kind of link: what differs between them is data in this file and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from edgedraft.links.frame_meter import FRAME_LIMITS, FrameLimits
from edgedraft.wire import MAX_AGENT_FRAME, MAX_FRAME, MAX_FRAME_TO_AGENT


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """One end of one kind of link. Times are in seconds.

    max_frame: bytes of one message that this end accepts; a larger one closes the link with code 1009.
    max_peer_frame: bytes of one message that the peer accepts.
    max_queued: messages that wait to be sent; one more ends the link.
    send_timeout: for one frame; None where write_timeout and pings alone detect a dead link.
    greeting_timeout: for the peer's first frame.
    open_timeout: for the TCP connection, TLS and the WebSocket handshake.
    close_timeout: for the closing handshake, after which the connection is dropped.
    ping_interval: between pings; the answer may take as long again. None where the HTTP server is set up with it.
    write_timeout: that the write buffer may stay full, whatever is in it, after which the connection is aborted.
    max_unread_frames: received frames that are buffered before the socket is read no further.
    frames: what the peer may send in control frames and fragments; beyond it the connection is aborted.
    use_proxy: whether the dialling side honours the system's proxy settings.
    identify: whether the User-Agent and Server headers are sent.
    """

    max_frame: int
    max_peer_frame: int = MAX_FRAME
    max_queued: int = 4096
    send_timeout: float | None = 20.0
    greeting_timeout: float = 10.0
    open_timeout: float = 10.0
    close_timeout: float = 2.0
    ping_interval: float | None = None
    write_timeout: float = 20.0
    max_unread_frames: int = 16
    frames: FrameLimits = FRAME_LIMITS
    use_proxy: bool = False
    identify: bool = True


GATEWAY_TO_VERIFIER = LinkSettings(max_frame=MAX_FRAME, close_timeout=1.0, ping_interval=10.0)
VERIFIER_ENDPOINT = LinkSettings(max_frame=MAX_FRAME, max_queued=1 << 16)
AGENT_TO_GATEWAY = LinkSettings(
    max_frame=MAX_FRAME_TO_AGENT,
    max_peer_frame=MAX_AGENT_FRAME,
    send_timeout=None,
    write_timeout=30.0,
    close_timeout=0.5,
    ping_interval=20.0,
    max_unread_frames=4,
    use_proxy=True,
)
AGENT_ENDPOINT = LinkSettings(max_frame=MAX_AGENT_FRAME, max_peer_frame=MAX_FRAME_TO_AGENT)
REPLICA = LinkSettings(
    max_frame=MAX_FRAME,
    max_queued=1 << 16,
    open_timeout=2.0,
    close_timeout=1.0,
    ping_interval=5.0,
    identify=False,
)
