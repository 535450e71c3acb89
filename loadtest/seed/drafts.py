"""The real draft model's guesses, each computed once and then known: what it says at a place never changes.

Places are asked for when a desktop begins to look at them and answered when its profile says that the look is over; so
whatever was asked for until then is computed in one forward.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from edge_agent.drafters.interface import NO_PROPOSAL, Drafter, DraftRequest, Proposal, merge
from edge_agent.drafters.loading import load_drafters
from edge_agent.drafters.model import common_prefix
from edge_agent.drafters.prompt_lookup import PromptLookupDrafter
from edge_agent.settings import AgentSettings
from edgedraft.wire import Sampling
from loadtest.seed.chats import Chat
from loadtest.seed.record import Known
from verifier.scheduling.step_costs import StepCosts

KINDS = ("model", "lookup", "both")
SIZES = (1, 4, 16, 32)
SIZES_AGAIN = 3
ODD = 7  # a token to draft behind, when only time counts

Place = tuple[int, int, tuple[int, ...]]  # a chat's number, output tokens that are right, and wrong ones behind them


@dataclass(frozen=True)
class Wanted:
    """A look under way: the model's place, and what prompt lookup says there already."""

    place: Place | None
    copied: Proposal


class Drafts:
    """The draft model's memory. Not thread-safe."""

    def __init__(self, vocab_size: int, threads: int, kv_tokens: int = 1 << 15) -> None:
        """`vocab_size` is the target's."""
        armoury = load_drafters(
            AgentSettings.model_validate(
                {
                    "url": "-",
                    "key": "-",
                    "prompt_lookup": False,
                    "past_outputs": False,
                    "threads": threads,
                    "kv_tokens": kv_tokens,
                }
            )
        )
        self.description = armoury.description
        self._drafter: Drafter = armoury.new_drafter(vocab_size)
        self._known: dict[Place, Proposal] = {}
        self._asked: dict[Place, DraftRequest] = {}
        self._open: set[int] = set()

    def ask(self, chat: Chat, point: DraftRequest, lookup: PromptLookupDrafter | None, model: bool = True) -> Wanted:
        """Begin a look. `lookup` is the asking desktop's own."""
        [copied] = lookup.propose([point]) if lookup else [NO_PROPOSAL]
        if not model:
            return Wanted(None, copied)
        place = _place(chat, point)
        if place not in self._known:
            self._asked[place] = DraftRequest(
                chat.number + 1, point.context, point.num_committed, point.output_index, point.sampling
            )
        return Wanted(place, copied)

    def answer(self, wanted: Wanted) -> Proposal:
        """End a look."""
        if wanted.place is None:
            return wanted.copied
        while wanted.place not in self._known:
            self._compute()
        return merge([wanted.copied, self._known[wanted.place]])

    @property
    def known(self) -> list[Known]:
        """All guesses so far, to be kept."""
        return [(*place, g.tokens, g.parents, g.probabilities) for place, g in self._known.items()]

    def remember(self, known: Sequence[Known]) -> None:
        """Guesses of an earlier run."""
        for number, right, wrong, tokens, parents, probabilities in known:
            self._known[number, right, wrong] = Proposal(tokens, parents, probabilities)

    def _compute(self) -> None:
        """One forward: a place of each chat that has one to compute."""
        batch = {place[0]: place for place in reversed(self._asked)}
        for number in batch.keys() - self._open:
            self._drafter.open(number + 1)
            self._open.add(number)
        places = list(batch.values())
        for place, guesses in zip(places, self._drafter.propose([self._asked[place] for place in places]), strict=True):
            if guesses.complete:
                self._known[place] = guesses
                del self._asked[place]

    def measured_looks(self) -> StepCosts:
        """CPU seconds of a look for so many sessions at once, each a token further than the last."""
        costs = StepCosts()
        greedy = Sampling(temperature=0)
        for size in SIZES:
            texts = {1_000_000 + i: [100 + i] * 16 for i in range(size)}
            for number in texts:
                self._drafter.open(number)
            took: list[float] = []
            for _ in range(SIZES_AGAIN + 1):
                began = time.thread_time()
                points = [DraftRequest(number, text, len(text), 0, greedy) for number, text in texts.items()]
                answers: Sequence[Proposal] = self._drafter.propose(points)
                took.append(time.thread_time() - began)
                while not all(answer.complete for answer in answers):
                    answers = self._drafter.propose(points)
                for text in texts.values():
                    text.append(ODD)
            costs.record(size, median(took[1:]))
            for number in texts:
                self._drafter.close(number)
        return costs


def _place(chat: Chat, point: DraftRequest) -> Place:
    output = point.context[len(chat.prompt) :]
    right = common_prefix(output, chat.text)
    return chat.number, right, tuple(output[right:])
