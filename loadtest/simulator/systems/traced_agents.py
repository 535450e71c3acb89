"""The verifier's scheduler with agents that replay recorded draft trees (workloads/trace.py).

After a commit that its tree did not contain, an agent's rounds of drafting arrive LINK_SECONDS and ROUND_SECONDS apart;
after one that it did, at once, since drafting had continued from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from edgedraft.wire import Commit, Draft
from loadtest.simulator.clock import Clock
from loadtest.simulator.load import OnTokens, Stream
from loadtest.simulator.measurement import Meters
from loadtest.simulator.systems.edgedraft import open_message
from loadtest.simulator.target import Target
from loadtest.simulator.verifier import LIMITS, SimulatedVerifier
from loadtest.workloads.trace import TracedTree
from verifier.scheduling.policy import SelectDraftNodes
from verifier.scheduling.step_costs import StepCosts

LINK_SECONDS = 0.004  # round trip and first draft forward: near, as the target is small
ROUND_SECONDS = 0.002  # each further round
LONGEST_DRAFTING = LINK_SECONDS + 16 * ROUND_SECONDS
ACCURATE, WRONG, ABSENT = "accurate", "wrong", "absent"


class TracedAgent:
    """One session's agent. A wrong one proposes other tokens, with full confidence."""

    def __init__(self, session: int, trees: Sequence[TracedTree], wrong: bool) -> None:
        self.epoch = 0
        self._session, self._trees, self._wrong = session, trees, wrong
        self._at = 0

    def start_epoch(self, at: int, since: float) -> list[tuple[float, Draft]]:
        """The drafts behind `at` output tokens with their arrival times, for drafting that began at `since`."""
        self.epoch, self._at = self.epoch + 1, at
        tree = self._trees[at]
        drafts: list[tuple[float, Draft]] = []
        for i, token in enumerate(tree.tokens):
            parent, confidence = tree.parents[i], tree.confidence[i : i + 1]
            proposed = token
            if self._wrong:
                proposed, confidence = (token + 1) % 1000, bytes(1)
            draft = Draft(self._session, self.epoch, at, i + 1, [proposed], [parent], confidence)
            drafts.append((since + LINK_SECONDS + (tree.rounds[i] - 1) * ROUND_SECONDS, draft))
        return drafts

    def committed(self, at: int, tokens: Sequence[int], accepted: int, now: float) -> list[tuple[float, Draft]]:
        """The drafts behind `at` output tokens, after a commit of `tokens`."""
        foreseen = not self._wrong and accepted > 0 and contains_path(self._trees[self._at], tokens)
        return self.start_epoch(at, now - LONGEST_DRAFTING if foreseen else now)


class TracedAgents:
    """`agents` is ACCURATE, WRONG or ABSENT by chat number, `trees` are the recorded ones by chat number."""

    def __init__(
        self,
        clock: Clock,
        target: Target,
        steps: StepCosts,
        select: SelectDraftNodes,
        agents: Mapping[int, str],
        trees: Mapping[int, Sequence[TracedTree]],
    ) -> None:
        self.meters = Meters()
        self.clock = clock
        self.verifier = SimulatedVerifier(clock, target, steps, self.meters, self._deliver, LIMITS, select=select)
        self._eos = target.eos
        self._kinds, self._trees = agents, trees
        self._streams: dict[int, Stream] = {}
        self._agents: dict[int, TracedAgent] = {}
        self._on_tokens: OnTokens = lambda stream, tokens: None

    def subscribe(self, on_tokens: OnTokens) -> None:
        self._on_tokens = on_tokens

    def stop(self) -> None:
        self.verifier.close()
        self._streams.clear()
        self._agents.clear()

    def submit(self, stream: Stream) -> None:
        kind = self._kinds[stream.chat.number]
        self._streams[stream.key] = stream
        self.verifier.open(open_message(stream, self._eos, "" if kind == ABSENT else f"agent {stream.device}"))
        if kind != ABSENT:
            agent = TracedAgent(stream.key, self._trees[stream.chat.number], wrong=kind == WRONG)
            self._agents[stream.key] = agent
            self._send(agent, agent.start_epoch(stream.num_prior, self.clock.now))
        self.verifier.start_step()

    def _deliver(self, commits: Mapping[int, Commit]) -> None:
        for key, commit in commits.items():
            stream, at = self._streams[key], commit.at + len(commit.tokens)
            self._on_tokens(stream, commit.tokens)
            agent = self._agents.get(key)
            if commit.finish:
                del self._streams[key]
                self._agents.pop(key, None)
                self._on_tokens(stream, ())
            elif agent:
                self._send(agent, agent.committed(at, commit.tokens, commit.accepted, self.clock.now))

    def _send(self, agent: TracedAgent, drafts: Sequence[tuple[float, Draft]]) -> None:
        """Drafts of a later epoch replace those that are still on their way."""
        for at, together in groupby(drafts, key=lambda timed: timed[0]):
            arrive = self._arrival(agent, agent.epoch, [draft for _, draft in together])
            if at <= self.clock.now:
                arrive()
            else:
                self.clock.call_at(at, arrive)

    def _arrival(self, agent: TracedAgent, epoch: int, drafts: Sequence[Draft]) -> Callable[[], None]:
        def arrive() -> None:
            if agent.epoch == epoch and drafts[0].session in self._agents:
                self.verifier.add_drafts(drafts)

        return arrive


def contains_path(tree: TracedTree, tokens: Sequence[int]) -> bool:
    """Whether `tokens` are a path from the tree's root."""
    node = 0
    for token in tokens:
        nodes = zip(tree.tokens, tree.parents, strict=True)
        child = next((i for i, known in enumerate(nodes, 1) if known == (token, node)), None)
        if child is None:
            return False
        node = child
    return True
