"""Bounds of one HTTP connection: what a peer may send before anybody asks who it is, and how long it may take."""

from __future__ import annotations

MAX_TARGET = 8 << 10  # bytes of a request's target; RFC 9112 (section 3) asks for 8,000 at least
MAX_HEAD = 32 << 10  # bytes of a head; of a body's trailers, or of one chunk's line, too
MAX_FIELDS = 100  # of a head; of the trailers too
MAX_PIPELINED = 16  # requests that wait for the response to an earlier one
MAX_UNREAD_BODY = 64 << 10  # bytes that the app has not taken, above which nothing more is read
SLICE, BODY_SLICE = (
    4 << 10,
    64 << 10,
)  # bytes that are parsed before bounds are checked again, outside and inside bodies

HEAD_SECONDS = 20.0  # from the connection's start, or a later head's first byte, to the head's end
KEEP_ALIVE_SECONDS = 75.0  # that a connection may stay idle: longer than the pools of common proxies and clients
# A peer reads so many bytes in so many seconds while the send buffer is full, or all that is left at the end.
MIN_READ, UNREAD_SECONDS = 128 << 10, 30.0
LINGER_SECONDS, LINGER_BYTES = 1.0, 1 << 20  # that are still read, so that a peer that is sending reads its response
