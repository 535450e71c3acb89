"""The wire protocol: messages between agent, gateway and verifier, and how frames of them are encoded and decoded.

A frame is one binary WebSocket message: a MessagePack array of messages. The same Open, Draft, Commit and Close travel
on both hops, agent to gateway and gateway to verifier; only the handshake differs. Session numbers belong to one link.
The gateway opens sessions and numbers them upwards from 1 without reusing a number, so a number above the highest one
opened is invalid, and one below it that is no longer open belongs to a late message.

A message is an array that begins with its tag. Fields may only be appended, and unknown trailing fields are ignored. A
peer with another protocol version is closed with VERSION. This module checks the shapes and bounds of single messages;
whether a draft fits its session is checked in tree.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

PROTOCOL = 3

# Bounds of the protocol. A peer that exceeds one is closed; a correct peer reaches none of them.
MAX_AGENT_FRAME = 1 << 18  # bytes per frame from an agent
MAX_FRAME_TO_AGENT = 1 << 22  # bytes per frame to an agent, enough for MAX_AGENT_TEXT tokens
MAX_AGENT_TEXT = 1 << 18  # tokens of prompt and output; longer texts are not drafted
MAX_FRAME = 1 << 26  # bytes per frame between gateway and verifier: prompts, and the model card with its tokenizer
MAX_PRIORITY = 9
MAX_WINDOW = 256  # uncommitted draft nodes of one session
MAX_DRAFT_NODES = 64  # nodes per Draft
MAX_MESSAGES = 1024  # messages per frame
MAX_GRAMMAR = 1 << 18  # characters
MAX_TOP_LOGPROBS = 20
MAX_VOCAB = 1 << 20  # tokens, the width of rows of noise and logits; the largest vocabularies have a quarter of that
MAX_TEMPLATE = 1 << 20  # characters

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
SessionId = Annotated[int, Meta(ge=1, le=2**53)]
NodeId = Annotated[int, Meta(ge=0, le=2**53)]
Position = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Name = Annotated[str, Meta(max_length=256)]
VocabSize = Annotated[int, Meta(ge=1, le=MAX_VOCAB)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
NodeCount = Annotated[int, Meta(ge=0, le=MAX_WINDOW)]
Seconds = Annotated[float, Meta(ge=0, le=1e6)]

FinishReason = Literal["stop", "length"]


class Sampling(Struct, frozen=True, omit_defaults=True):
    """Sampling parameters. Together with target and prompt they determine the text.

    temperature 0 is argmax. top_k 0, top_p 1, min_p 0, penalties of 0 and a repetition_penalty of 1 are off.
    repetition_penalty applies to tokens of prompt and output, the other two to tokens of the output. logit_bias is
    added by token id. grammar is in llguidance's Lark or JSON form, empty for none; it is not sent to agents. None of
    the first min_tokens tokens is one that ends the output, unless the grammar allows no other.
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
    min_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


class TokenLogprobs(Struct, frozen=True, array_like=True):
    """The target's log-probability of one committed token, and its most probable `tokens` with their `logprobs`.

    They are taken before temperature, penalties, bias and grammar. The most probable token comes first.
    """

    logprob: float
    tokens: Annotated[list[TokenId], Meta(max_length=MAX_TOP_LOGPROBS)] = []
    logprobs: Annotated[list[float], Meta(max_length=MAX_TOP_LOGPROBS)] = []


class Hello(Struct, frozen=True, tag="hello", array_like=True):
    """The first message of a client: of an agent to a gateway, or of a gateway to a verifier.

    name is the agent's, drafter describes its draft model, and max_sessions is how many it drafts for at once.
    fingerprint is that of the agent's tokenizer (tokenizer.py), `device` says what runs its draft model (devices.py).
    A gateway leaves all of them empty. `reports` is a gateway's: it takes Progress and Spent.
    """

    protocol: int
    name: Name = ""
    fingerprint: Name = ""
    drafter: Name = ""
    max_sessions: Annotated[int, Meta(ge=0, le=4096)] = 0
    reports: bool = False
    device: Name = ""


class ModelCard(Struct, frozen=True):
    """What a gateway needs to serve a target without any of its files.

    tokenizer is the model's tokenizer.json, zlib-compressed. chat_template is Jinja source, empty if it has none. eos
    are the token ids that end the output. context_length is in tokens.
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
    """A verifier's answer to a Hello: the model that it serves and how many sessions it accepts at once."""

    protocol: int
    card: ModelCard
    max_sessions: Count


class AgentWelcome(Struct, frozen=True, tag="welcome", array_like=True):
    """A gateway's answer to an agent's Hello: the agent's id, and the model to draft for with its fingerprint."""

    protocol: int
    agent: Name
    model: Name
    vocab_size: VocabSize
    max_sessions: Count
    fingerprint: Name = ""


class Open(Struct, frozen=True, tag="open", array_like=True):
    """Opens a session. To an agent it may also reopen the session of that number with what was committed since.

    `committed` are output tokens that already exist: at a verifier that takes over from a lost one, or at an agent that
    joins late. `max_tokens` counts all output tokens, including those. `window` is how many uncommitted draft nodes the
    agent may have. `epoch` is the last epoch used: an agent starts above it and above its own last one, a verifier
    continues from it. `eos` are the tokens that end the output. `prediction` is the client's predicted output, which is
    drafted from. `trace` is a W3C traceparent.

    For verifiers only: `agent` identifies the agent whose drafts to expect by an opaque name that is the same in all of
    its sessions, empty for none. Sessions of the same `salt` share the prefix cache. With `logprobs` >= 0, commits
    carry TokenLogprobs with that many alternatives per token; -1 asks for none. Under contention, sessions of higher
    `priority` go first. `share` is an opaque name of the API key: capacity is shared between them. `request` is an
    opaque name of the request, the same for all of its sessions at all verifiers, and `attempt` counts those from 1.
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
    share: Name = ""
    request: Name = ""
    attempt: Count = 0


class Draft(Struct, frozen=True, tag="draft", array_like=True):
    """Adds nodes to a session's draft tree (tree.py), as columns of equal length with one entry per node.

    The epoch starts after `at` output tokens. The nodes' ids are first, first + 1, ...; a parent is a lower id of the
    same epoch, 0 being the epoch's root. confidence is one byte per node: -16 * log2 of the draft model's probability
    that the target samples this token after its parent.
    """

    session: SessionId
    epoch: NodeId
    at: Position
    first: NodeId
    tokens: Annotated[list[TokenId], Meta(min_length=1, max_length=MAX_DRAFT_NODES)]
    parents: Annotated[list[NodeId], Meta(max_length=MAX_DRAFT_NODES)]
    confidence: Annotated[bytes, Meta(max_length=MAX_DRAFT_NODES)]


class Commit(Struct, frozen=True, tag="commit", array_like=True):
    """Final output tokens at positions at, at + 1, ... `window` is how many uncommitted nodes the agent may have.

    Of the verified draft, `nodes` is the number of its nodes, `depth` the length of its longest path and `accepted` the
    number of accepted tokens; all are 0 after a plain decode. `verifier_drafted` states that the nodes were not an
    agent's but the verifier's, from prompt lookup or the client's prediction. `seconds` is the session's share of the
    verifier's compute time. `finish` is set on the last commit. `cached` is set on the first: prompt tokens found in
    the prefix cache. `logprobs` has one entry per token where the session asked for them; they are not sent to agents.
    """

    session: SessionId
    at: Position
    tokens: list[TokenId]
    window: Annotated[int, Meta(ge=0, le=MAX_WINDOW)] = 0
    nodes: NodeCount = 0
    depth: NodeCount = 0
    accepted: NodeCount = 0
    seconds: Seconds = 0.0
    finish: FinishReason | None = None
    cached: Count = 0
    verifier_drafted: bool = False
    logprobs: list[TokenLogprobs] = []


class Queued(Struct, frozen=True, tag="queued", array_like=True):
    """Verifier to gateway: the session waits for admission behind `ahead` others."""

    session: SessionId
    ahead: Count


class Progress(Struct, frozen=True, tag="progress", array_like=True):
    """Verifier to gateway: the session is being worked on, though it commits nothing yet.

    `computed` of `total` tokens of its text are computed; 0 of 0 while it waits for a long step or for its grammar.
    Sent about once a second and session at most, and only to a gateway whose Hello said `reports`.
    """

    session: SessionId
    computed: Count = 0
    total: Count = 0


class Spent(Struct, frozen=True, tag="spent", array_like=True):
    """Verifier to gateway: all that one session has cost, after its end, however it ended.

    `request` and `attempt` are those of its Open. `seconds` is the session's share of the verifier's compute time, what
    its commits carried included. `computed` tokens were computed, `cached` ones found in the prefix cache. Repeated,
    to other gateways too once that of the session is gone, until one has recorded it; only sent to gateways whose Hello
    said `reports`.
    """

    request: Name
    attempt: Count
    seconds: Seconds = 0.0
    computed: Count = 0
    cached: Count = 0


class SpentRecorded(Struct, frozen=True, tag="recorded", array_like=True):
    """Gateway to verifier: the Spent of this request and attempt is in the ledger."""

    request: Name
    attempt: Count


class AgentChanged(Struct, frozen=True, tag="edge", array_like=True):
    """Gateway to verifier: from now on the session has this agent, named as in Open, or none if empty."""

    session: SessionId
    agent: Name = ""


class Close(Struct, frozen=True, tag="close", array_like=True):
    """The session is over or was not accepted. A gateway cancels with it; a verifier reports a failure.

    code is one of the CLOSE_* names below. With CLOSE_OVERLOADED, `retry_after` is the suggested delay in seconds.
    """

    session: SessionId
    code: Name = ""
    reason: Annotated[str, Meta(max_length=1024)] = ""
    retry_after: Seconds = 0.0


CLOSE_OVERLOADED = "overloaded"  # no capacity now; another verifier or a later attempt may succeed
CLOSE_REFUSED = "refused"  # can never be served: too long, or a token outside the vocabulary
CLOSE_FAILED = "failed"  # an internal error of the verifier
CLOSE_GRAMMAR = "grammar"  # the session's grammar cannot be followed any further within its limits
CLOSE_LEAVING = "leaving"  # the verifier is shutting down and accepts no new sessions

FromAgent = Hello | Draft
ToAgent = AgentWelcome | Open | Commit | Close
FromVerifier = VerifierWelcome | Commit | Queued | Progress | Spent | Close
ToVerifier = Hello | Open | Draft | AgentChanged | SpentRecorded | Close

# WebSocket close codes (RFC 6455 section 7.4.2: 4000-4999 are for private use).
BAD_FRAME = 4400
UNAUTHORIZED = 4401
FORBIDDEN = 4403
TIMEOUT = 4408
VERSION = 4406
TOKENIZER_MISMATCH = 4409
TOO_LARGE = 1009
VIOLATION = 4422
TOO_MANY = 4429
TOO_FAST = 4430  # an agent sends more drafts than its sessions' commits account for
MOVE = 4307  # this gateway is shutting down: reconnect at once, to another replica

M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()


class WireError(Exception):
    """The peer violated the protocol. `code` and `reason` are those of the WebSocket close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason.encode()[:120].decode(errors="ignore")  # a close frame holds at most 123 bytes of reason


class FrameDecoder(Generic[M]):
    """Decodes frames of at most `limit` bytes into messages of one union."""

    def __init__(self, union: type[M], limit: int) -> None:
        self._decoder = msgspec.msgpack.Decoder(Annotated[list[union], Meta(max_length=MAX_MESSAGES)])
        self._limit = limit

    def __call__(self, frame: bytes | str) -> list[M]:
        """The messages of a frame, in order.

        Raises WireError: TOO_LARGE, or BAD_FRAME for invalid MessagePack, an unknown message or a value out of bounds.
        """
        if isinstance(frame, str):
            raise WireError(BAD_FRAME, "frames are binary MessagePack, not text")
        if len(frame) > self._limit:
            raise WireError(TOO_LARGE, f"a frame holds at most {self._limit} bytes")
        try:
            return self._decoder.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WireError(BAD_FRAME, str(error)) from None


decode_from_agent: FrameDecoder[FromAgent] = FrameDecoder(FromAgent, MAX_AGENT_FRAME)  # type: ignore[arg-type]
decode_to_agent: FrameDecoder[ToAgent] = FrameDecoder(ToAgent, MAX_FRAME_TO_AGENT)  # type: ignore[arg-type]
decode_from_verifier: FrameDecoder[FromVerifier] = FrameDecoder(FromVerifier, MAX_FRAME)  # type: ignore[arg-type]
decode_to_verifier: FrameDecoder[ToVerifier] = FrameDecoder(ToVerifier, MAX_FRAME)  # type: ignore[arg-type]


def encode_frame(messages: Iterable[Struct]) -> bytes:
    """One frame with `messages`, at most MAX_MESSAGES, in order."""
    return _encoder.encode(list(messages))


def expect_hello(messages: Sequence[object]) -> Hello:
    """The Hello that must be the only message of a client's first frame.

    Raises WireError: VERSION for another protocol version, BAD_FRAME for anything else.
    """
    match messages:
        case [Hello() as hello]:
            if hello.protocol != PROTOCOL:
                raise WireError(VERSION, f"protocol {hello.protocol} is not spoken here; this is {PROTOCOL}")
            return hello
    raise WireError(BAD_FRAME, "the first frame must be one hello")


def confidence_byte(probability: float) -> int:
    """A probability in (0, 1] as a byte of Draft.confidence."""
    return min(255, max(0, round(-16.0 * math.log2(max(probability, 1e-9)))))


def confidence_probability(cost: float) -> float:
    """The probability of a byte of Draft.confidence, or of a sum of such bytes along a path."""
    return 2.0 ** (-cost / 16.0)
