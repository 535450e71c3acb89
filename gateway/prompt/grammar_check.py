"""Whether a grammar can be served: compiled and tried in a process of its own, within a time and a memory bound.

Grammars come from the internet, and a short one can keep a compiler busy for minutes; a process can be ended, a thread
can not. The trial runs on single bytes as tokens, so one process serves all models. What is a token of one model's own
cannot be tried here: grammar.py writes it as text for the trial.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import OrderedDict
from contextlib import suppress

from edgedraft.wire import MAX_GRAMMAR

SECONDS = 2.0  # of computing for one grammar; ordinary ones take milliseconds
_PATIENCE = 10.0  # seconds that may pass meanwhile on a busy machine
_MEMORY = 1 << 30  # bytes of address space
_STEPS = 24  # tokens that are tried
_REMEMBERED = 1024  # answers
_LONGEST = MAX_GRAMMAR * 8  # bytes of a line between the processes


class GrammarCheck:
    """Asks the process, which it starts when first needed and again after it had to end it. Answers are remembered."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._answers: OrderedDict[str, str] = OrderedDict()

    async def problem(self, grammar: str) -> str:
        """What is wrong with it, empty for nothing."""
        if grammar in self._answers:
            self._answers.move_to_end(grammar)
            return self._answers[grammar]
        if len(grammar) > MAX_GRAMMAR:
            return f"it comes to {len(grammar)} characters; at most {MAX_GRAMMAR} are served"
        async with self._turn:
            answer = await self._ask(grammar)
        self._answers[grammar] = answer
        if len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)
        return answer

    async def close(self) -> None:
        if process := self._process:
            self._process = None
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _ask(self, grammar: str) -> str:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway.prompt.grammar_check",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_LONGEST,
            )
            assert process.stdout
            await process.stdout.readline()  # it is ready; its start is not the grammar's time
        assert process.stdin
        assert process.stdout
        settled = False
        try:
            async with asyncio.timeout(_PATIENCE):
                process.stdin.write(json.dumps(grammar).encode() + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
            settled = bool(line)
            return json.loads(line) if line else "it needs too much time or memory to compile"
        except (TimeoutError, ConnectionError):
            return "it needs too much time or memory to compile"
        finally:
            # An answer that nobody waited for would be taken for the next one's.
            if not settled:
                await self.close()


def tried(grammar: str) -> str:
    """What is wrong with the grammar, empty for nothing; takes as long as it takes."""
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
    for step in range(_STEPS):
        mask = int.from_bytes(matcher.compute_bitmask(), "little") if not matcher.is_error() else 0
        if matcher.is_error():
            return matcher.get_error()
        token = (mask & -mask).bit_length() - 1
        if token < 0:
            return "no text fulfils it"
        if token > 255 or not matcher.consume_token(token):
            break
        if step == 0 and not (matcher.rollback(1) and matcher.consume_token(token)):
            return "max_tokens and stop are not supported in grammars"
        if matcher.is_stopped():
            break
    return matcher.get_error() if matcher.is_error() else ""


def _serve() -> None:
    """The process: a grammar in a line, an answer in a line."""
    with suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    tried("start: /a*/")
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        _bound_computing(SECONDS)
        answer = tried(json.loads(line))
        _bound_computing(0)
        print(json.dumps(answer), flush=True)


def _bound_computing(seconds: float) -> None:
    """The process ends when it has computed for so long; 0 lifts that. Without such timers, patience is the bound."""
    with suppress(AttributeError):
        signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    _serve()
