"""What the gateway asks of its prompt workers (prompt_worker.py), and what they answer."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

Message = Mapping[str, Any]  # of a chat, as chat templates read it


class PromptSetup(Struct, frozen=True):
    """What a worker needs of a model: the fields of the same names of wire.ModelCard."""

    tokenizer: bytes
    chat_template: str
    bos_token: str
    eos_token: str


class Inspect(Struct, frozen=True, tag="inspect", array_like=True):
    """Try the tokenizer and the template."""


class Render(Struct, frozen=True, tag="render", array_like=True):
    """Render a chat and tokenize it.

    The arguments of earlier calls are as the client sent them (call_arguments.py). `tools` are in OpenAI's form; they
    become text for templates that do not support them.
    """

    messages: list[dict[str, Any]]
    options: dict[str, Any]
    tools: list[dict[str, Any]] | None
    tools_as_text: bool
    max_tokens: int


class Encode(Struct, frozen=True, tag="encode", array_like=True):
    """Tokenize texts, each by itself. Parameters as in PromptTokenizer.encode_plain."""

    texts: list[str]
    max_tokens: int
    with_ends: bool
    with_control: bool


class Inspected(Struct, frozen=True, tag="inspected", array_like=True):
    supports_tools: bool


class Encoded(Struct, frozen=True, tag="encoded", array_like=True):
    """Per text its tokens, packed. `ending` is the last part of a rendered prompt."""

    tokens: list[bytes]
    ending: str = ""


class TooLong(Struct, frozen=True, tag="too_long", array_like=True):
    """A prompt has at least so many tokens, more than were allowed."""

    num_tokens: int


class Refused(Struct, frozen=True, tag="refused", array_like=True):
    """The template does not take these messages, or the text cannot be served; `reason` is for the client."""

    reason: str


PromptJob = Inspect | Render | Encode
PromptResult = Inspected | Encoded | TooLong | Refused

encode_message = msgspec.msgpack.Encoder().encode
decode_job = msgspec.msgpack.Decoder(PromptJob).decode
decode_result = msgspec.msgpack.Decoder(PromptResult).decode
decode_setup = msgspec.msgpack.Decoder(PromptSetup).decode


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """As unsigned 32-bit numbers of this machine."""
    return array("I", tokens).tobytes()


def unpack_tokens(packed: bytes) -> list[int]:
    tokens = array("I")
    tokens.frombytes(packed)
    return tokens.tolist()
