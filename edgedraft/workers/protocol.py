"""Frames between a pool and its worker processes: a length of 4 bytes, then MessagePack."""

from __future__ import annotations

from typing import IO

import msgspec

_encoder = msgspec.msgpack.Encoder()


class Setup(msgspec.Struct, frozen=True, tag="setup", array_like=True):
    """What several jobs share, such as a model's tokenizer. It has no reply; a job that needs it fails if it failed."""

    name: str
    content: bytes


class Job(msgspec.Struct, frozen=True, tag="job", array_like=True):
    """One job. `setup` is the name of what it needs, empty for nothing."""

    setup: str
    content: bytes


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """A job's result, or why the worker could not do it. `cpu_seconds` includes the loading of its setup."""

    cpu_seconds: float
    output: bytes = b""
    error: str = ""


ToWorker = Setup | Job

decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode


def write_frame(pipe: IO[bytes], message: msgspec.Struct) -> None:
    """Raises OSError if nobody reads."""
    body = _encoder.encode(message)
    pipe.write(len(body).to_bytes(4, "big") + body)
    pipe.flush()


def read_frame(pipe: IO[bytes], limit: int) -> bytes:
    """The next frame's content; empty at the end of the stream. Raises ValueError above `limit` bytes."""
    head = pipe.read(4)
    length = int.from_bytes(head, "big")
    if len(head) < 4:
        return b""
    if length > limit:
        raise ValueError(f"a frame of {length} bytes")
    body = pipe.read(length)
    return body if len(body) == length else b""
