"""A recorded trace: the target's texts for the workload's prompts, and what an agent drafts at every position of them.

For each output position it holds the tree that the agent's own drafting (edge_agent/drafting/draft_session.py, with the
shipped draft model and prompt lookup) grows behind the committed text, up to a window of WINDOW nodes, and the round
of drafting in which each node came. A scheduler can so be given real drafts at no cost.
`python -m loadtest.workloads.trace` records it again, for the demo pair, greedily.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_agent.drafters.interface import Drafter
from edge_agent.settings import AgentSettings
from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from edgedraft.observability.progress import progress
from edgedraft.wire import Draft, Open, Sampling
from loadtest.workloads import mixed_prompts, prompt_tokens
from verifier.settings import VerifierSettings

FILE = Path(__file__).parent / "trace.msgpack.gz"
TOKENS = 48
WINDOW = 16
GREEDY = Sampling(temperature=0)


class TracedTree(msgspec.Struct, frozen=True, array_like=True):
    """Nodes as Draft's columns, ids from 1; rounds[i] is the round of drafting in which node i + 1 came, from 1."""

    tokens: list[int]
    parents: list[int]
    confidence: bytes
    rounds: list[int]


class TracedChat(msgspec.Struct, frozen=True, array_like=True):
    """One prompt, the target's text, and trees[i] as drafted behind i output tokens."""

    prompt: list[int]
    text: list[int]
    trees: list[TracedTree]


def load_trace() -> list[TracedChat]:
    return msgspec.msgpack.decode(gzip.decompress(FILE.read_bytes()), type=list[TracedChat])


def record_trace() -> list[TracedChat]:
    """Takes a minute or two."""
    from transformers import AutoTokenizer

    from edge_agent.drafters.loading import load_drafters
    from loadtest.generation import generate_texts
    from verifier.engine.interface import Request
    from verifier.engine.target import load_target
    from verifier.engine.transformers_engine import TransformersEngine

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(DEMO_MODEL))
    prompts = [prompt_tokens(tokenizer, prompt.text) for prompt in mixed_prompts()]
    model, card = load_target(VerifierSettings.model_validate({"device": "cpu", "dtype": "float32"}))
    engine = TransformersEngine(model, card.vocab_size, card.context_length, len(prompts))
    eos = frozenset(card.eos)
    requests = [Request(key, tuple(prompt), GREEDY, TOKENS, eos) for key, prompt in enumerate(prompts)]
    with progress("the target's texts", len(requests), "texts") as advance:
        texts = generate_texts(engine, requests, len(requests), advance)
    drafter = load_drafters(AgentSettings.model_validate({"url": "-", "key": "-"})).new_drafter(card.vocab_size)
    for key in texts:
        drafter.open(key)
    trees: dict[int, list[TracedTree]] = {key: [] for key in texts}
    with progress("the agent's trees", TOKENS, "positions") as advance:
        for at in range(TOKENS):
            opened = {
                key: Open(key, prompts[key], GREEDY, TOKENS, text[:at], window=WINDOW, eos=card.eos)
                for key, text in texts.items()
                if at < len(text)
            }
            for key, tree in _draft(drafter, opened).items():
                trees[key].append(tree)
            advance()
    return [TracedChat(prompts[key], texts[key], trees[key]) for key in texts]


def _draft(drafter: Drafter, opened: dict[int, Open]) -> dict[int, TracedTree]:
    """The tree of each session after as many rounds as its window has nodes."""
    from edge_agent.drafting.draft_session import DraftSession

    sessions = {key: DraftSession(message, epoch=1) for key, message in opened.items()}
    drafts: dict[int, list[tuple[int, Draft]]] = {key: [] for key in sessions}
    for number in range(1, WINDOW + 1):
        points = {key: point for key, session in sessions.items() if (point := session.next_request())}
        proposals = drafter.propose([point for _, point in points.values()])
        for (key, (node, _)), proposal in zip(points.items(), proposals, strict=True):
            for draft in sessions[key].add_proposals([(node, proposal)]):
                drafts[key].append((number, draft))
    return {key: _tree(rounds) for key, rounds in drafts.items()}


def _tree(drafts: Sequence[tuple[int, Draft]]) -> TracedTree:
    return TracedTree(
        tokens=[token for _, draft in drafts for token in draft.tokens],
        parents=[parent for _, draft in drafts for parent in draft.parents],
        confidence=b"".join(draft.confidence for _, draft in drafts),
        rounds=[number for number, draft in drafts for _ in draft.tokens],
    )


if __name__ == "__main__":
    FILE.write_bytes(gzip.compress(msgspec.msgpack.encode(record_trace()), mtime=0))
    print(f"{FILE}: {FILE.stat().st_size} bytes")
