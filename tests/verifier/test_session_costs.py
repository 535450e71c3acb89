"""Every second of every step is in the report of exactly one attempt, whatever happens to sessions and links."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from edgedraft.runtime.packed_model import PackedModel
from edgedraft.wire import AgentChanged, Close, Commit, Draft, Open, Sampling, Spent
from tests.conftest import THOROUGH
from tests.support.tiny_llama import VOCAB
from tests.verifier.counting_engine import LoopRunner
from verifier.engine.interface import ScheduledSession, StepResult
from verifier.engine.transformers_engine import TransformersEngine
from verifier.engine_loop import WARM_UP_KEY, LinkClosed
from verifier.scheduling.scheduler import SchedulerLimits

SEEDS = range(60 if THOROUGH else 6)
EVENTS = 250
LIMITS = SchedulerLimits(
    step_tokens=48, verify_nodes=8, prompt_delay=0.3, draft_wait=0.01, wait_share=0.5, max_waiting=3, max_wait=0.03
)


class MeteredEngine(TransformersEngine):
    """Counts what its steps took, and what sessions it evicted. Some steps fail."""

    def __init__(self, model: PackedModel, dice: random.Random) -> None:
        super().__init__(model, VOCAB, 512, 6)
        self.seconds = 0.0
        self.evicted = self.failed = 0
        self._dice = dice

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        if any(item.session == WARM_UP_KEY for item in scheduled):
            return super().step(scheduled)
        if self._dice.random() < 0.02:
            began = time.monotonic()
            time.sleep(0.002)
            self.failed += 1
            self.seconds += time.monotonic() - began
            raise RuntimeError("broken")
        results = super().step(scheduled)
        self.evicted += sum(not result.tokens and not result.seconds for result in results)
        self.seconds += sum(result.seconds for result in results)
        return results


class Gateways:
    """Two links that open, draft for, cancel and lose sessions at random, and keep what they are told."""

    def __init__(self, runner: LoopRunner, dice: random.Random) -> None:
        self._runner = runner
        self._dice = dice
        self._links = [1, 2]
        self._live: dict[tuple[int, int], int] = {}  # attempts by address
        self.attempts = 0
        self.spent: dict[int, list[Spent]] = defaultdict(list)
        self.carried: dict[int, float] = defaultdict(float)
        self.closed: dict[str, int] = defaultdict(int)

    def do_something(self) -> None:
        dice, live = self._dice, sorted(self._live)
        what = dice.choices(("open", "close", "draft", "agent", "lose", "wait"), (8, 3, 8, 1, 0.4, 8))[0]
        if what == "open":
            self.attempts += 1
            link = dice.choice(self._links)
            prompt = dice.choices(range(VOCAB), k=dice.choice((1, 5, 40, 150)))
            committed = dice.choices(range(VOCAB), k=dice.choice((0, 0, 7)))
            self._live[link, self.attempts] = self.attempts
            self._post(
                link,
                Open(
                    self.attempts,
                    prompt,
                    Sampling(temperature=0),
                    dice.choice((8, 20, 60)),
                    committed=committed,
                    agent=dice.choice(("", "laptop")),
                    priority=dice.choice((0, 0, 5)),
                    share=dice.choice(("ann", "bob")),
                    request=f"use_{self.attempts}",
                    attempt=self.attempts,
                ),
            )
        elif what == "lose":
            gone = self._links.pop(0)
            self._links.append(gone + 2)
            self._live = {address: attempt for address, attempt in self._live.items() if address[0] != gone}
            self._post(gone, LinkClosed())
        elif what == "wait":
            time.sleep(dice.random() * 0.006)
        elif live:
            link, session = dice.choice(live)
            if what == "close":
                del self._live[link, session]
                self._post(link, Close(session))
            elif what == "agent":
                self._post(link, AgentChanged(session, dice.choice(("", "laptop"))))
            else:
                tokens = dice.choices(range(VOCAB), k=3)
                self._post(
                    link, Draft(session, dice.randint(1, 50), dice.randint(0, 5), 1, tokens, [0, 1, 1], bytes(3))
                )

    def end(self) -> None:
        """Lose both links, and wait for all reports."""
        for link in self._links:
            self._post(link, LinkClosed())
        while len(self.spent) < self.attempts:
            self._take(*self._runner.next())
        self._runner.loop.stop()
        while not self._runner.replies.empty():
            self._take(*self._runner.next())

    def _post(self, link: int, message: Any) -> None:
        self._runner.loop.post(link, message)
        while not self._runner.replies.empty():
            self._take(*self._runner.next())

    def _take(self, link: int, reply: Any) -> None:
        if isinstance(reply, Spent):
            assert reply.request == f"use_{reply.attempt}"
            self.spent[reply.attempt].append(reply)
        elif isinstance(reply, Commit):
            self.carried[reply.session] += reply.seconds
        if isinstance(reply, Close) or (isinstance(reply, Commit) and reply.finish):
            self.closed[reply.code if isinstance(reply, Close) else "finished"] += 1
            self._live.pop((link, reply.session), None)


@pytest.mark.parametrize("seed", SEEDS)
def test_all_reports_together_have_what_all_steps_took(tiny: Callable[[int], PackedModel], seed: int) -> None:
    dice = random.Random(seed)
    engine = MeteredEngine(tiny(320), random.Random(seed + 1000))
    runner = LoopRunner(cast(Any, engine), LIMITS)
    runner.loop.start()
    gateways = Gateways(runner, dice)
    for _ in range(EVENTS):
        gateways.do_something()
    gateways.end()
    assert set(gateways.spent) == set(range(1, gateways.attempts + 1))
    assert all(len(reports) == 1 for reports in gateways.spent.values()), "one report for each attempt"
    reported = sum(reports[0].seconds for reports in gateways.spent.values())
    if engine.failed:  # their time is that of the loop, which is a little more
        assert engine.seconds < reported < engine.seconds + engine.failed * 10
    else:
        assert reported == pytest.approx(engine.seconds, rel=1e-9)
    in_metrics = runner.metrics.registry.get_sample_value("edgedraft_verifier_compute_seconds_total")
    assert reported == pytest.approx(in_metrics, rel=1e-9)
    for attempt, (report,) in gateways.spent.items():
        assert gateways.carried[attempt] <= report.seconds + 1e-9
