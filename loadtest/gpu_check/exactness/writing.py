"""Writes texts with the embedded engine: sessions that come and go, prompts in chunks, drafts of any source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edge_agent.drafters.interface import DraftRequest
from edge_agent.drafters.pytorch.drafter import ModelDrafter
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.tree import EMPTY_DRAFT, DraftSlice
from edgedraft.wire import Sampling
from verifier.engine.interface import Overloaded, Request, ScheduledSession
from verifier.engine.transformers_engine import TransformersEngine

SAMPLINGS = (Sampling(temperature=0), Sampling(temperature=0.8, seed=11))  # of sessions in turn
CHUNK = 24  # prompt tokens of a session in a step
DEPTH = 5
WRONG_EVERY = 7  # of so many output tokens a made-up draft misses one

Texts = dict[int, list[int]]
MakeDrafts = Callable[[Mapping[int, Sequence[int]]], Mapping[int, DraftSlice]]  # from the texts of sessions so far


@dataclass
class Written:
    """Texts by session, and what it took. `leaked` tokens of KV cache are not free afterwards."""

    texts: Texts = field(default_factory=dict)
    steps: int = 0
    accepted: int = 0
    evictions: int = 0
    leaked: int = 0


def sampling_of(session: int) -> Sampling:
    return SAMPLINGS[session % len(SAMPLINGS)]


def write_texts(
    model: PackedModel, prompts: Sequence[Sequence[int]], tokens: int, vocab: int, drafts: MakeDrafts | None = None
) -> Written:
    """`tokens` of text behind each prompt. A session waits while the KV cache has no room for its prompt."""
    engine = TransformersEngine(model, vocab, model.block_manager.num_tokens, len(prompts))
    written = Written({session: [] for session in range(len(prompts))})
    waiting, uncomputed = list(range(len(prompts))), dict[int, int]()
    while waiting or uncomputed:
        while waiting and (count := _open(engine, waiting[0], prompts[waiting[0]], tokens)) is not None:
            uncomputed[waiting.pop(0)] = count
        decoding = {session: written.texts[session] for session, count in uncomputed.items() if count <= CHUNK}
        drafted = drafts(decoding) if drafts else {}
        written.steps += 1
        scheduled = [
            ScheduledSession(session, min(count, CHUNK), drafted.get(session, EMPTY_DRAFT))
            for session, count in uncomputed.items()
        ]
        for result in engine.step(scheduled):
            written.evictions += not result.tokens and result.num_uncomputed > uncomputed[result.session]
            written.texts[result.session] += result.tokens
            written.accepted += result.accepted
            uncomputed[result.session] = result.num_uncomputed
            if result.finish or result.failure:
                del uncomputed[result.session]
                engine.close(result.session)
    capacity = engine.capacity()
    written.leaked = capacity.kv_tokens - capacity.free_kv_tokens
    return written


def _open(engine: TransformersEngine, session: int, prompt: Sequence[int], tokens: int) -> int | None:
    """The number of its uncomputed tokens; None where there is no room now."""
    try:
        return engine.open(Request(session, tuple(prompt), sampling_of(session), tokens, frozenset()))
    except Overloaded:
        return None


def made_up_drafts(right: Mapping[int, Sequence[int]], vocab: int) -> MakeDrafts:
    """Trees that follow the texts `right`, with a wrong sibling at each depth and a wrong token now and then."""

    def make(texts: Mapping[int, Sequence[int]]) -> dict[int, DraftSlice]:
        return {session: _follow(right[session], len(text), vocab) for session, text in texts.items()}

    return make


def _follow(right: Sequence[int], at: int, vocab: int) -> DraftSlice:
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    tip = -1
    for depth, token in enumerate(right[at : at + DEPTH], 1):
        wrong, misses = (token + depth) % vocab, (at + depth) % WRONG_EVERY == 0
        children = [wrong] if misses else [wrong, token]
        tokens += children
        parents += [tip] * len(children)
        depths += [depth] * len(children)
        tip = len(tokens) - 1
    return DraftSlice(tuple(tokens), tuple(parents), tuple(4 * depth for depth in depths), tuple(depths))


def drafts_of_model(drafter: ModelDrafter, prompts: Sequence[Sequence[int]]) -> MakeDrafts:
    """Trees of an agent's draft model: its two best tokens at each depth behind the best of the depth before."""

    def make(texts: Mapping[int, Sequence[int]]) -> dict[int, DraftSlice]:
        found: dict[int, DraftSlice] = {}
        for session, text in texts.items():
            if not text:
                drafter.open(session)
            found[session] = _draft(drafter, session, [*prompts[session], *text], len(text))
        return found

    return make


def _draft(drafter: ModelDrafter, session: int, committed: list[int], output_index: int) -> DraftSlice:
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    path: list[int] = []
    tip = -1
    while len(path) < DEPTH:
        request = DraftRequest(
            session, [*committed, *path], len(committed), output_index + len(path), sampling_of(session)
        )
        (proposal,) = drafter.propose([request])
        if not proposal.complete:
            continue  # a long prompt is computed in several forwards
        children = proposal.tokens[:2]
        if not children:
            break
        tokens += children
        parents += [tip] * len(children)
        depths += [len(path) + 1] * len(children)
        tip = len(tokens) - len(children)
        path.append(children[0])
    return DraftSlice(tuple(tokens), tuple(parents), tuple(4 * depth for depth in depths), tuple(depths))
