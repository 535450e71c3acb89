"""A recorded trace: what the target says to the workload's prompts, and what an agent would draft at every place.

For each output index the trace holds the tree that the agent's own drafting (edge_agent/drafting/draft_session.py, the
shipped draft model and prompt lookup) grows behind the committed text up to a window of WINDOW nodes, and in which
round of drafting each node came. So a scheduler can be fed with real drafts that cost nobody any time. `python -m
loadtest.trace` records it anew, for the demo pair, greedily.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec

from edge_agent.settings import AgentSettings
from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from edgedraft.observability.progress import progress
from edgedraft.wire import Draft, Open, Sampling
from loadtest.workloads import mixed, prompt_tokens
from verifier.settings import VerifierSettings

FILE = Path(__file__).parent / "workloads" / "trace.msgpack.gz"
TOKENS = 48
WINDOW = 16
GREEDY = Sampling(temperature=0)


class Tree(msgspec.Struct, frozen=True, array_like=True):
    """Nodes as Draft's columns, ids from 1; rounds[i] is the round of drafting in which node i came, from 1."""

    tokens: list[int]
    parents: list[int]
    confidence: bytes
    rounds: list[int]


class Conversation(msgspec.Struct, frozen=True, array_like=True):
    """One prompt, the target's text, and trees[i] as drafted behind i output tokens."""

    prompt: list[int]
    text: list[int]
    trees: list[Tree]


def load() -> list[Conversation]:
    return msgspec.msgpack.decode(gzip.decompress(FILE.read_bytes()), type=list[Conversation])


def record() -> list[Conversation]:
    """Takes a minute or two."""
    from transformers import AutoTokenizer

    from edge_agent.drafters.loading import load_drafters
    from edge_agent.drafting.draft_session import DraftSession
    from verifier.engine.interface import Request, ScheduledSession
    from verifier.engine.target import load_target
    from verifier.engine.transformers_engine import TransformersEngine

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(DEMO_MODEL))
    prompts = [prompt_tokens(tokenizer, prompt.text) for prompt in mixed()]
    model, card = load_target(VerifierSettings.model_validate({"device": "cpu", "dtype": "float32"}))
    engine = TransformersEngine(model, card.vocab_size, card.context_length, len(prompts))
    texts: dict[int, list[int]] = {key: [] for key in range(len(prompts))}
    left = {key: engine.open(Request(key, tuple(prompts[key]), GREEDY, TOKENS, frozenset(card.eos))) for key in texts}
    with progress("the target's texts") as advance:
        while left:
            for made in engine.step([ScheduledSession(key, unseen) for key, unseen in left.items()]):
                texts[made.session] += made.tokens
                left[made.session] = made.num_uncomputed
                if made.finish:
                    del left[made.session]
                    engine.close(made.session)
            advance()
    drafter = load_drafters(AgentSettings.model_validate({"url": "-", "key": "-"})).new_drafter(card.vocab_size)
    for key in texts:
        drafter.open(key)
    trees: dict[int, list[Tree]] = {key: [] for key in texts}
    with progress("the agent's trees", TOKENS, "places") as advance:
        for at in range(TOKENS):
            places = {
                key: DraftSession(
                    Open(key, prompts[key], GREEDY, TOKENS, text[:at], window=WINDOW, eos=card.eos), epoch=1
                )
                for key, text in texts.items()
                if at < len(text)
            }
            grown: dict[int, list[tuple[int, Draft]]] = {key: [] for key in places}
            for turn in range(1, WINDOW + 1):
                points = {key: point for key, session in places.items() if (point := session.next_request())}
                answers = drafter.propose([point for _, point in points.values()])
                for (key, (node, _)), guesses in zip(points.items(), answers, strict=True):
                    if draft := places[key].add_proposal(node, guesses):
                        grown[key].append((turn, draft))
            for key, drafts in grown.items():
                trees[key].append(_tree(drafts))
            advance()
    return [Conversation(prompts[key], texts[key], trees[key]) for key in texts]


def _tree(drafts: list[tuple[int, Draft]]) -> Tree:
    return Tree(
        tokens=[token for _, draft in drafts for token in draft.tokens],
        parents=[parent for _, draft in drafts for parent in draft.parents],
        confidence=b"".join(draft.confidence for _, draft in drafts),
        rounds=[turn for turn, draft in drafts for _ in draft.tokens],
    )


if __name__ == "__main__":
    FILE.write_bytes(gzip.compress(msgspec.msgpack.encode(record()), mtime=0))
    print(f"{FILE}: {FILE.stat().st_size} bytes")
