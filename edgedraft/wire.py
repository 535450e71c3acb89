"""The messages between agent, gateway and verifier, and how a frame of them is read and written.

A frame is one binary WebSocket message: a MessagePack array of messages. The same Open, Draft, Commit and Close
travel on both hops (agent-gateway and gateway-verifier); only the greeting differs. Session numbers belong to one
link: the side that opens sessions (the gateway) counts them up from 1 and gives none to a second session, so a number
above the highest opened is foreign and one below it that is no longer open is merely late.

Messages travel as arrays, tag first, to which fields may only be appended; unknown trailing fields pass, an unknown
protocol version is closed with VERSION. This file knows shapes and bounds of single messages only; whether a draft fits
its session is tree.py's to say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

PROTOCOL = 3

# Bounds of the protocol. A peer that passes one is closed; none of them is reached by a well-behaved one.
MAX_AGENT_FRAME = 1 << 18  # bytes from an agent in one frame
MAX_FRAME_TO_AGENT = 1 << 22  # bytes: a desktop is to be safe from its gateway, and reads no text longer than the next
MAX_AGENT_TEXT = 1 << 18  # tokens of prompt and output; longer ones are not drafted at all
MAX_FRAME = 1 << 26  # bytes on the other ways: prompts and the model card with its tokenizer
MAX_PRIORITY = 9
MAX_WINDOW = 64  # uncommitted draft nodes of one session
MAX_DRAFT_NODES = 64  # nodes in one Draft
MAX_MESSAGES = 1024  # messages in one frame
MAX_GRAMMAR = 1 << 18  # characters
MAX_TOP_LOGPROBS = 20
MAX_VOCAB = 1 << 20  # tokens: rows of noise and of logits are so wide; the largest in use have a quarter of that
MAX_TEMPLATE = 1 << 20  # characters

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
SessionId = Annotated[int, Meta(ge=1, le=2**53)]
NodeId = Annotated[int, Meta(ge=0, le=2**53)]
Position = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Name = Annotated[str, Meta(max_length=256)]
VocabSize = Annotated[int, Meta(ge=1, le=MAX_VOCAB)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Nodes = Annotated[int, Meta(ge=0, le=MAX_WINDOW)]
Seconds = Annotated[float, Meta(ge=0, le=1e6)]

FinishReason = Literal["stop", "length"]


class Sampling(Struct, frozen=True, omit_defaults=True):
    """How the target's next token is chosen; together with target and prompt it determines the text.

    temperature 0 is argmax. top_k 0, top_p 1, min_p 0, penalties of 0 and a repetition_penalty of 1 are off.
    repetition_penalty looks at prompt and output, the other two at the output. logit_bias is added, by token id.
    grammar is what llguidance reads (its Lark or its JSON form), empty for none; agents are not told it.
    """

    temperature: Annotated[float, Meta(ge=0, le=100)] = 1.0
    top_k: Annotated[int, Meta(ge=0)] = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] = 1.0
    logit_bias: Annotated[dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1024)] = {}
    grammar: Annotated[str, Meta(max_length=MAX_GRAMMAR)] = ""


class TokenLogprobs(Struct, frozen=True, array_like=True):
    """The target's own log-probability of one committed token, and its most probable `tokens` with theirs, best first.

    They are the model's, before temperature, penalties, bias or grammar.
    """

    logprob: float
    tokens: Annotated[list[TokenId], Meta(max_length=MAX_TOP_LOGPROBS)] = []
    logprobs: Annotated[list[float], Meta(max_length=MAX_TOP_LOGPROBS)] = []


class Hello(Struct, frozen=True, tag="hello", array_like=True):
    """First message of whoever dials: an agent to a gateway, a gateway to a verifier.

    fingerprint is the agent's tokenizer's (tokenizer.py); a gateway leaves it empty.
    """

    protocol: int
    name: Name = ""
    fingerprint: Name = ""
    drafter: Name = ""
    max_sessions: Annotated[int, Meta(ge=0, le=4096)] = 0


class ModelCard(Struct, frozen=True):
    """What a gateway must know of a target to serve it without holding any of its files.

    tokenizer is the model's tokenizer.json, zlib-compressed; chat_template is Jinja source, empty if it has none.
    """

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    fingerprint: Name
    vocab_size: VocabSize
    context_length: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    eos: Annotated[tuple[int, ...], Meta(max_length=256)]
    tokenizer: bytes
    chat_template: Annotated[str, Meta(max_length=MAX_TEMPLATE)]
    bos_token: Name = ""
    eos_token: Name = ""


class VerifierWelcome(Struct, frozen=True, tag="welcome", array_like=True):
    """A verifier's answer to a Hello: the model it serves and how many sessions it takes at once."""

    protocol: int
    card: ModelCard
    max_sessions: Count


class AgentWelcome(Struct, frozen=True, tag="welcome", array_like=True):
    """A gateway's answer to an agent's Hello; fingerprint is the model's tokenizer's."""

    protocol: int
    agent: Name
    model: Name
    vocab_size: VocabSize
    max_sessions: Count
    fingerprint: Name = ""


class Open(Struct, frozen=True, tag="open", array_like=True):
    """Begin a session; towards an agent also: begin the one of that number again, with what was committed so far.

    `committed` are output tokens that exist already: on a verifier that takes over from a lost one, or on an agent that
    joins late. `max_tokens` counts all output tokens, those included. `agent` tells a verifier whose drafts to
    expect, by a name that is the same in all of that agent's sessions and means nothing else; empty is nobody's.
    `epoch` tells either the last one used: an agent's begin above it and above its own, a verifier counts on from it.
    A verifier may reuse what it computed for one session in others of the same `salt`; agents are not told it.
    With `logprobs` of 0 or more, commits carry so many alternatives of each token (TokenLogprobs); -1 asks for none.
    `prediction` is what the client expects the output to be, a draft like any other. `trace` is a W3C traceparent.
    Where there is no room, sessions of higher `priority` go first; agents are not told it.
    """

    session: SessionId
    prompt: list[TokenId]
    sampling: Sampling
    max_tokens: Annotated[int, Meta(ge=1)]
    committed: list[TokenId] = []
    window: Annotated[int, Meta(ge=0, le=MAX_WINDOW)] = 0
    epoch: Annotated[int, Meta(ge=0, le=2**52)] = 0  # those that follow it are NodeIds, too
    eos: tuple[int, ...] = ()
    agent: Name = ""
    salt: Name = ""
    logprobs: Annotated[int, Meta(ge=-1, le=MAX_TOP_LOGPROBS)] = -1
    prediction: list[TokenId] = []
    trace: Name = ""
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY)] = 0


class Draft(Struct, frozen=True, tag="draft", array_like=True):
    """Nodes that hang from a session's committed text; columns of equal length, one entry a node.

    The epoch was planted after `at` output tokens. The nodes' ids are first, first + 1, ...; a parent is an id of the
    same epoch below the node's own, 0 being the place of planting. confidence is one byte a node, -16 * log2 of the
    drafter's probability that the target chooses this child.
    """

    session: SessionId
    epoch: NodeId
    at: Position
    first: NodeId
    tokens: Annotated[list[TokenId], Meta(min_length=1, max_length=MAX_DRAFT_NODES)]
    parents: Annotated[list[NodeId], Meta(max_length=MAX_DRAFT_NODES)]
    confidence: Annotated[bytes, Meta(max_length=MAX_DRAFT_NODES)]


class Commit(Struct, frozen=True, tag="commit", array_like=True):
    """Output tokens at, at + 1, ... are these, for good. `window` is how many uncommitted nodes the agent may hold.

    `depth` counts the drafted tokens on the longest path that this verify looked at, `nodes` all drafted nodes in it,
    `accepted` those that were right; all 0 after a plain decode. `seconds` is the session's share of the verifier's
    compute time. `finish` is set on the last commit, `cached` on the first: prompt tokens found computed. `own` nodes
    were not an agent's but guessed by the verifier, from what the text said before or the client predicted.
    `logprobs` has one entry a token where the session asked for them; agents are not told.
    """

    session: SessionId
    at: Position
    tokens: list[TokenId]
    window: Annotated[int, Meta(ge=0, le=MAX_WINDOW)] = 0
    nodes: Nodes = 0
    depth: Nodes = 0
    accepted: Nodes = 0
    seconds: Seconds = 0.0
    finish: FinishReason | None = None
    cached: Count = 0
    verifier_drafted: bool = False
    logprobs: list[TokenLogprobs] = []


class Queued(Struct, frozen=True, tag="queued", array_like=True):
    """Verifier to gateway: there is no room for this session yet, and `ahead` others came before it."""

    session: SessionId
    ahead: Count


class AgentChanged(Struct, frozen=True, tag="edge", array_like=True):
    """Gateway to verifier: from now on this session has an agent, named as in Open, or has none any more."""

    session: SessionId
    agent: Name = ""


class Close(Struct, frozen=True, tag="close", array_like=True):
    """The session is over or was never begun. Towards a verifier it cancels; from a verifier it reports a failure.

    code is one of the CLOSE_* names below; for an overloaded verifier `retry_after` is when to try again, in seconds.
    """

    session: SessionId
    code: Name = ""
    reason: Annotated[str, Meta(max_length=1024)] = ""
    retry_after: Seconds = 0.0


CLOSE_OVERLOADED = "overloaded"  # no room now; another verifier or a later try may do
CLOSE_REFUSED = "refused"  # can never be served: too long, a token outside the vocabulary
CLOSE_FAILED = "failed"  # the verifier's own fault
CLOSE_LEAVING = "leaving"  # the verifier ends in good order and begins nothing new

FromAgent = Hello | Draft
ToAgent = AgentWelcome | Open | Commit | Close
FromVerifier = VerifierWelcome | Commit | Queued | Close
ToVerifier = Hello | Open | Draft | AgentChanged | Close

# WebSocket close codes (RFC 6455 section 7.4.2: 4000-4999 are an application's own).
BAD_FRAME = 4400
UNAUTHORIZED = 4401
FORBIDDEN = 4403
TIMEOUT = 4408
VERSION = 4406
TOKENIZER_MISMATCH = 4409
TOO_LARGE = 1009
VIOLATION = 4422
TOO_MANY = 4429
TOO_FAST = 4430  # an agent sends more than it was told news to draft for
MOVE = 4307  # this gateway is going: attach again at once, another one answers

M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()


class WireError(Exception):
    """The peer broke the protocol; `code` and `reason` go into the WebSocket close."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason.encode()[:120].decode(errors="ignore")  # a close frame holds 123 bytes of reason


class FrameDecoder(Generic[M]):
    """Reads frames whose messages are of one union, none longer than `limit` bytes."""

    def __init__(self, union: type[M], limit: int) -> None:
        self._decoder = msgspec.msgpack.Decoder(Annotated[list[union], Meta(max_length=MAX_MESSAGES)])
        self._limit = limit

    def __call__(self, frame: bytes | str) -> list[M]:
        """Raises WireError: TOO_LARGE, or BAD_FRAME for what is not MessagePack, no known message or out of bounds."""
        if isinstance(frame, str):
            raise WireError(BAD_FRAME, "frames are binary MessagePack, not text")
        if len(frame) > self._limit:
            raise WireError(TOO_LARGE, f"a frame holds at most {self._limit} bytes")
        try:
            return self._decoder.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WireError(BAD_FRAME, str(error)) from None


from_agent: FrameDecoder[FromAgent] = FrameDecoder(FromAgent, MAX_AGENT_FRAME)  # type: ignore[arg-type]
to_agent: FrameDecoder[ToAgent] = FrameDecoder(ToAgent, MAX_FRAME_TO_AGENT)  # type: ignore[arg-type]
from_verifier: FrameDecoder[FromVerifier] = FrameDecoder(FromVerifier, MAX_FRAME)  # type: ignore[arg-type]
to_verifier: FrameDecoder[ToVerifier] = FrameDecoder(ToVerifier, MAX_FRAME)  # type: ignore[arg-type]


def encode(messages: Iterable[Struct]) -> bytes:
    """One frame holding `messages` in order; at most MAX_MESSAGES of them."""
    return _encoder.encode(list(messages))


def expect_hello(messages: Sequence[object]) -> Hello:
    """The Hello that a dialling peer's first frame must be.

    Raises WireError: VERSION for a protocol other than ours, BAD_FRAME for anything else.
    """
    match messages:
        case [Hello() as hello]:
            if hello.protocol != PROTOCOL:
                raise WireError(VERSION, f"protocol {hello.protocol} is not spoken here; this is {PROTOCOL}")
            return hello
    raise WireError(BAD_FRAME, "the first frame must be one hello")


def confidence_byte(probability: float) -> int:
    """A probability in (0, 1] as the byte that Draft carries."""
    return min(255, max(0, round(-16.0 * math.log2(max(probability, 1e-9)))))


def confidence_probability(cost: float) -> float:
    """The probability that a byte, or a sum of bytes along a path, stands for."""
    return 2.0 ** (-cost / 16.0)
