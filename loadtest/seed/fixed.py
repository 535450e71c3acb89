"""The server of the two ways that check what they are given: every tree that is there, whole, and prompts beside it.

Prompts are let in by the same rule as in the verifier's scheduler (policy.prompt_rows). There is no choice of nodes
here and no waiting: who has no tree is not in the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgedraft.tree import DraftSlice
from loadtest.seed.fleet import Meters, Stream
from loadtest.seed.server import LIMITS
from loadtest.seed.target import Target
from verifier.engine.interface import Request, ScheduledSession, StepResult
from verifier.scheduling.policy import prompt_token_budget
from verifier.scheduling.step_costs import StepCosts


@dataclass
class Checked:
    """A stream on the server: `unseen` tokens of its text are left to go in; it is under way once it decodes.

    A part of a prompt may leave one token, so that `unseen` alone does not tell.
    """

    stream: Stream
    unseen: int
    said: list[int]
    under_way: bool


class FixedServer:
    """Sessions and their prompts; the trees are handed in step by step."""

    def __init__(self, target: Target, steps: StepCosts, meters: Meters) -> None:
        self.sessions: dict[int, Checked] = {}
        self._target, self._steps, self._meters = target, steps, meters

    def clear(self) -> None:
        for key in self.sessions:
            self._target.engine.close(key)
        self.sessions.clear()

    def open(self, stream: Stream) -> None:
        chat, known = stream.chat, stream.chat.text[: stream.known]
        request = Request(
            stream.key, chat.prompt, chat.sampling, chat.most, frozenset(self._target.eos), known, stream.salt
        )
        unseen = self._target.engine.open(request)
        self.sessions[stream.key] = Checked(stream, unseen, list(known), unseen <= 1)

    def step(self, trees: Mapping[int, DraftSlice]) -> tuple[list[StepResult], float] | None:
        """One step over these sessions and what fits of prompts, and the seconds it takes; None without any work."""
        spent = self._target.spent()
        work = [ScheduledSession(key, 1, tree) for key, tree in trees.items()]
        delay = LIMITS.prompt_delay if any(s.under_way for s in self.sessions.values()) else float("inf")
        rows = sum(1 + len(tree) for tree in trees.values())
        left = prompt_token_budget(rows, max(0, LIMITS.step_tokens - rows), delay, self._steps.seconds)
        for key, session in self.sessions.items():
            if not session.under_way and left > 0:
                work.append(ScheduledSession(key, min(session.unseen, left)))
                left -= work[-1].num_tokens
        if not work:
            return None
        progress = self._target.engine.step(work)
        return progress, self._target.seconds(work, self._target.spent() - spent)

    def apply(self, progress: Sequence[StepResult], committed: Callable[[Stream, Sequence[int]], None]) -> list[int]:
        """Take a step's progress in; returns the sessions that got tokens and go on."""
        going: list[int] = []
        for made in progress:
            if (session := self.sessions.get(made.session)) is None:
                continue  # it was closed while the step ran
            session.unseen = made.num_uncomputed
            if not made.tokens and made.finish is None:
                continue
            self._meters.verifies += 1
            self._meters.nodes += made.nodes
            self._meters.accepted += made.accepted
            session.under_way = True
            session.said += made.tokens
            committed(session.stream, made.tokens)
            if made.finish:
                self._target.engine.close(made.session)
                del self.sessions[made.session]
                committed(session.stream, ())
            else:
                going.append(made.session)
        return going
