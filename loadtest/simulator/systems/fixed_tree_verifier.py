"""The verifier of the systems with fixed trees: it checks every tree it receives, completely, with prompts beside them.

Prompts are admitted by the verifier's own rule (policy.step_prompt_tokens). It selects no nodes and waits for no
drafts: a session without a tree is not in the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgedraft.tree import DraftSlice
from loadtest.simulator.load import OnTokens, Stream
from loadtest.simulator.measurement import Meters
from loadtest.simulator.target import Target
from loadtest.simulator.verifier import LIMITS
from verifier.engine.interface import Request, ScheduledSession, StepResult, count_prompt_tokens
from verifier.scheduling.forecast import Forecast
from verifier.scheduling.policy import step_prompt_tokens
from verifier.scheduling.step_costs import StepCosts


@dataclass
class VerifiedSession:
    """A session on the verifier: `num_uncomputed` tokens are left to compute, `generated` are its output tokens.

    `decoding` is kept apart, since a part of a prompt may leave one uncomputed token too.
    """

    stream: Stream
    num_uncomputed: int
    generated: list[int]
    decoding: bool


class FixedTreeVerifier:
    """Sessions and their prompts; the trees are passed in step by step."""

    def __init__(self, target: Target, steps: StepCosts, meters: Meters) -> None:
        self.sessions: dict[int, VerifiedSession] = {}
        self._target, self._steps, self._meters = target, steps, meters
        self._forecast = Forecast()

    def clear(self) -> None:
        """Closes all sessions."""
        for key in self.sessions:
            self._target.engine.close(key)
        self.sessions.clear()

    def open(self, stream: Stream) -> None:
        chat, prior = stream.chat, stream.chat.text[: stream.num_prior]
        eos = frozenset(self._target.eos)
        request = Request(stream.key, chat.prompt, chat.sampling, chat.max_tokens, eos, prior, stream.salt)
        num_uncomputed = self._target.engine.open(request)
        self.sessions[stream.key] = VerifiedSession(stream, num_uncomputed, list(prior), num_uncomputed <= 1)

    def step(self, trees: Mapping[int, DraftSlice]) -> tuple[list[StepResult], float] | None:
        """Runs one step over these sessions and as much of prompts as fits.

        Returns the results and the step's seconds, or None if there is nothing to do.
        """
        began = self._target.cpu_clock()
        work = [ScheduledSession(key, 1, tree) for key, tree in trees.items()]
        delay = LIMITS.prompt_delay if any(s.decoding for s in self.sessions.values()) else float("inf")
        rows = sum(1 + len(tree) for tree in trees.values())
        left = step_prompt_tokens(
            [session.num_uncomputed for session in self.sessions.values() if not session.decoding],
            rows,
            rows,
            sessions=len(self.sessions),
            room=max(0, LIMITS.step_tokens - rows),
            delay=delay,
            rate=self._forecast.time_value(len(self.sessions)),
            seconds=self._steps.seconds,
        )
        for key, session in self.sessions.items():
            if not session.decoding and left > 0:
                work.append(ScheduledSession(key, min(session.num_uncomputed, left)))
                left -= work[-1].num_tokens
        if not work:
            return None
        results = self._target.engine.step(work)
        seconds = self._target.step_seconds(work, self._target.cpu_clock() - began)
        prompt_tokens = count_prompt_tokens(work)
        prompt_seconds = self._steps.prompt_seconds(prompt_tokens, rows)
        committed = sum(len(result.tokens) for result in results)
        self._forecast.record_step(len(self.sessions), committed, seconds, prompt_seconds)
        return results, seconds

    def update(self, results: Sequence[StepResult], on_tokens: OnTokens) -> list[int]:
        """Applies a step's results; returns the sessions that got tokens and continue."""
        continuing: list[int] = []
        for result in results:
            if (session := self.sessions.get(result.session)) is None:
                continue  # closed during the step
            session.num_uncomputed = result.num_uncomputed
            if not result.tokens and result.finish is None:
                continue
            self._meters.verifies += 1
            self._meters.nodes += result.nodes
            self._meters.accepted += result.accepted
            session.decoding = True
            session.generated += result.tokens
            on_tokens(session.stream, result.tokens)
            if result.finish:
                self._target.engine.close(result.session)
                del self.sessions[result.session]
                on_tokens(session.stream, ())
            else:
                continuing.append(result.session)
        return continuing
