"""Sessions of one gateway link whose grammars are being compiled, and the messages that arrive for them meanwhile.

Compiling can take seconds. The engine's thread sees none of these messages before it is done, so it never waits for a
compiler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from edgedraft.wire import TOO_MANY, AgentChanged, Close, Draft, Open, Sampling, WireError

MAX_HELD = 256  # messages of one session

EngineMessage = Open | Draft | AgentChanged | Close


class CompilingSessions:
    """Passes messages to `post` in order; those of a session with a grammar once `compile_grammar` has returned."""

    def __init__(
        self,
        compile_grammar: Callable[[Sampling, str], object],
        threads: Executor,
        post: Callable[[EngineMessage, object], None],
        max_sessions: int,
    ) -> None:
        """`compile_grammar` is called in one of `threads`, with whose part of the workers it takes.

        `post` gets its result. At most `max_sessions` are compiled at once.
        """
        self._compile_grammar = compile_grammar
        self._threads = threads
        self._post = post
        self._max_sessions = max_sessions
        self._held: dict[int, list[EngineMessage]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Sessions whose grammars are being compiled."""
        return len(self._held)

    @property
    def sessions(self) -> tuple[int, ...]:
        """Their numbers."""
        return tuple(self._held)

    def take(self, message: EngineMessage) -> None:
        """Post a message, now or after its session's grammar. Raises WireError TOO_MANY past the bounds.

        Drafts past the bound are dropped, which costs no text.
        """
        if held := self._held.get(message.session):
            if len(held) < MAX_HELD:
                held.append(message)
            elif not isinstance(message, Draft):
                raise WireError(TOO_MANY, f"session {message.session} has {MAX_HELD} messages before its grammar")
        elif isinstance(message, Open) and message.sampling.grammar:
            if len(self._held) >= self._max_sessions:
                raise WireError(TOO_MANY, f"more than {self._max_sessions} sessions")
            self._held[message.session] = [message]
            task = asyncio.create_task(self._compile(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._post(message, None)

    def cancel(self) -> None:
        """The link is closed: what is held is never posted."""
        for task in self._tasks:
            task.cancel()

    async def _compile(self, message: Open) -> None:
        compiled = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._compile_grammar, message.sampling, message.salt
        )
        for held in self._held.pop(message.session):
            self._post(held, compiled if held is message else None)
