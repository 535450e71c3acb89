"""Parts of the fuzzing: WebSockets of ASGI apps in process, an engine without a model, an agent's mailbox.

The apps are the real ones; a socket has only what an ASGI server provides: frames in, frames out, a close. An exception
that an app raises counts as an escape.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct
from starlette.types import ASGIApp, Message
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from edge_agent.drafting.mailbox import Incoming, MailboxClosed
from edgedraft import wire
from edgedraft.tokenizer import fingerprint
from edgedraft.wire import Draft, ModelCard, Sampling, decode_from_agent
from verifier.engine.interface import Capacity, Overloaded, Request, RequestRejected, ScheduledSession, StepResult

SETTLE_TURNS = 4  # of the event loop, until an app has read a frame
END_SECONDS = 20.0


@dataclass
class FuzzedSocket:
    """A WebSocket of an ASGI app, by its two queues."""

    app: ASGIApp
    path: str
    token: str
    incoming: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    frames: list[bytes] = field(default_factory=list)  # sent by the app and not read yet
    closed: int | None = None
    _task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        scope: dict[str, Any] = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"authorization", b"Bearer " + self.token.encode())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "subprotocols": [],
            "state": {},
            "extensions": {"websocket.http.response": {}},
        }
        self.incoming.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(self.app(scope, self.incoming.get, self._send))  # type: ignore[arg-type]

    @property
    def over(self) -> bool:
        return self.closed is not None or self._task is None or self._task.done()

    async def put(self, frame: bytes | str) -> None:
        """Sends a frame and lets the app read it."""
        self.incoming.put_nowait({"type": "websocket.receive", "text" if isinstance(frame, str) else "bytes": frame})
        for _ in range(SETTLE_TURNS):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Disconnects. Raises what the app raised, or TimeoutError if it does not end."""
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
        assert self._task
        async with asyncio.timeout(END_SECONDS):
            await self._task

    async def _send(self, message: Message) -> None:
        if message["type"] == "websocket.send":
            self.frames.append(message["bytes"])
            del self.frames[:-64]
        elif message["type"] == "websocket.close":
            self.closed = message["code"]


class ScriptedEngine:
    """A verifier's engine without a model: its text is a function of the prompt.

    It rejects what the embedded engine rejects. Steps cost almost nothing, so that everything around them is fuzzed.
    """

    supports_trees = True

    def __init__(self, vocab_size: int, context_length: int, max_sessions: int) -> None:
        self.vocab_size = vocab_size
        self.context_length = context_length
        self._max_sessions = max_sessions
        self._sessions: dict[int, tuple[Request, list[int], int]] = {}  # with its text and how much of it is computed

    def precompile(self, sampling: Sampling, share: str) -> object:
        return None

    def validate(self, request: Request) -> None:
        if len(request.prompt) + request.max_tokens > self.context_length:
            raise RequestRejected("too long")
        if not request.prompt or len(request.committed) >= request.max_tokens:
            raise RequestRejected("a session needs a prompt and a token left to make")
        named = (*request.prompt, *request.committed, *request.sampling.logit_bias)
        if not all(0 <= token < self.vocab_size for token in named):
            raise RequestRejected("a token outside the vocabulary")

    def open(self, request: Request) -> int:
        self.validate(request)
        if len(self._sessions) >= self._max_sessions:
            raise Overloaded("full")
        self._sessions[request.session] = (request, [*request.prompt, *request.committed], 0)
        return len(request.prompt) + len(request.committed)

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        return [self._one(item) for item in scheduled]

    def close(self, session: int) -> None:
        self._sessions.pop(session, None)

    def capacity(self) -> Capacity:
        return Capacity(self._max_sessions - len(self._sessions), 1 << 16, 1 << 15)

    def _one(self, item: ScheduledSession) -> StepResult:
        request, text, seen = self._sessions[item.session]
        seen = min(len(text), seen + item.num_tokens)
        draft = item.draft
        if seen < len(text):
            self._sessions[item.session] = request, text, seen
            return StepResult(item.session, (), len(text) - seen)
        made: list[int] = []
        node, accepted, finish = -1, 0, None
        while True:
            token = scripted_token(request.prompt, len(text) + len(made), self.vocab_size)
            made.append(token)
            child = next(
                (i for i, parent in enumerate(draft.parents) if parent == node and draft.tokens[i] == token), None
            )
            accepted += child is not None
            output = len(text) + len(made) - len(request.prompt)
            finish = "stop" if token in request.eos else "length" if output >= request.max_tokens else None
            if finish or child is None:
                break
            node = child
        text += made
        if finish:
            self.close(item.session)
        else:
            self._sessions[item.session] = request, text, len(text) - 1
        logprobs = tuple(wire.TokenLogprobs(-1.0) for _ in made) if request.logprobs >= 0 else ()
        depth = max(draft.depths, default=0)
        return StepResult(item.session, tuple(made), 1, len(draft), depth, accepted, 0.0, finish, logprobs)


def scripted_token(prompt: Sequence[int], at: int, vocab_size: int) -> int:
    """The token at position `at` of the text."""
    return (sum(prompt) * 31 + at * 7 + at // 5) % min(vocab_size, 250)


def toy_card(context_length: int = 2048) -> ModelCard:
    """A model whose tokens are bytes."""
    tokenizer = Tokenizer(BPE({letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    source = tokenizer.to_str()
    return ModelCard(
        name="toy",
        fingerprint=fingerprint(source),
        vocab_size=tokenizer.get_vocab_size(),
        context_length=context_length,
        eos=(tokenizer.get_vocab_size() - 1,),
        tokenizer=zlib.compress(source.encode()),
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )


class ScriptedMailbox:
    """An agent's mailbox with these batches, then closed; posted drafts are decoded as by a gateway."""

    def __init__(self, batches: Sequence[Sequence[Incoming]]) -> None:
        self._batches = [list(batch) for batch in batches]

    def receive(self, wait: bool) -> list[Incoming]:
        if not self._batches:
            raise MailboxClosed
        return self._batches.pop(0)

    def post(self, drafts: Sequence[Draft]) -> None:
        if drafts:
            decode_from_agent(wire.encode_frame(drafts))

    def close(self) -> None:
        pass


def only_sessions(messages: Sequence[Struct]) -> list[Any]:
    """What an agent's link passes on: everything but a welcome."""
    return [message for message in messages if not isinstance(message, wire.AgentWelcome)]
