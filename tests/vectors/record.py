"""Records tests/vectors/draft_sessions.json: `python -m tests.vectors.record`, when drafting changes on purpose.

A session is an Open and then steps: proposals for the nodes that the session wants drafted, or a commit. Expected are
the drafts after each step. Proposals come from a random target that the committed text follows too, so that commits
accept paths of every length; logits and samplings are recorded with what a draft model proposes from them.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from edge_agent.drafters.interface import Proposal
from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.draft_session import DraftSession
from edge_agent.drafting.forward_size import ForwardCosts, select_requests
from edgedraft.sampling.noise import gumbel_at
from edgedraft.sampling.sampler import propose_tokens
from edgedraft.sampling.token_counts import TokenCounts, has_penalties
from edgedraft.wire import Commit, Draft, Open, Sampling

FILE = Path(__file__).with_name("draft_sessions.json")
VOCABULARY = 50
EOS = 49


def next_tokens(text: list[int], rng: random.Random) -> list[tuple[int, float]]:
    """What the target may say after `text`, with the probabilities that a draft model gives it, best first."""
    following = random.Random(repr(text[-3:]))
    best = following.sample(range(VOCABULARY), 3)
    first = rng.choice((0.5, 0.7, 0.9))
    return list(zip(best, (first, (1 - first) * 0.6, (1 - first) * 0.3), strict=True))


def proposal(text: list[int], rng: random.Random) -> Proposal:
    """A small random tree behind `text`, of plausible tokens."""
    tokens: list[int] = []
    parents: list[int] = []
    probabilities: list[float] = []
    paths = [text]
    for parent in (-1, 0) if rng.random() < 0.5 else (-1,):
        for token, probability in next_tokens(paths[parent + 1], rng)[: rng.randint(1, 3)]:
            tokens.append(token)
            parents.append(parent)
            probabilities.append(probability)
            paths.append([*paths[parent + 1], token])
    return Proposal(tuple(tokens), tuple(parents), tuple(probabilities), rng.random() > 0.1)


def record_session(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    prompt = [rng.randrange(VOCABULARY) for _ in range(6)]
    opened = Open(1, prompt, Sampling(temperature=0), rng.randint(20, 90), [], rng.choice((4, 16, 64)), eos=(EOS,))
    session, steps = DraftSession(opened, 1), []
    session.min_path = rng.choice((0.001, 0.02, 0.2))
    committed: list[int] = []
    while len(committed) < opened.max_tokens and len(steps) < 50:
        found = session.candidates(4)
        if found and rng.random() < 0.75:
            nodes = [node for _, node in found[: rng.randint(1, 3)]]
            proposed = [proposal(session.request_at(node).context, rng) for node in nodes]
            drafts = session.add_proposals(list(zip(nodes, proposed, strict=True)))
            columns = [[p.tokens, p.parents, p.probabilities, p.complete] for p in proposed]
            steps.append(
                {
                    "wanted": [node for _, node in found],
                    "nodes": nodes,
                    "proposals": columns,
                    "drafts": as_lists(drafts),
                }
            )
            continue
        tokens: list[int] = []
        for _ in range(rng.randint(1, 4)):
            choices = next_tokens([*prompt, *committed, *tokens], rng)
            tokens.append(choices[0 if rng.random() < 0.75 else 1][0])
        commit = Commit(1, len(committed), tokens, rng.choice((4, 16, 64)))
        committed += tokens
        steps.append({"commit": [commit.at, commit.tokens, commit.window], "drafts": as_lists(session.commit(commit))})
    return {
        "prompt": prompt,
        "max_tokens": opened.max_tokens,
        "window": opened.window,
        "min_path": session.min_path,
        "steps": steps,
    }


def record_lookup(seed: int) -> dict[str, Any]:
    """A text that repeats itself, committed token by token, with what prompt lookup proposes after each."""
    rng = random.Random(seed)
    phrases = [[rng.randrange(VOCABULARY) for _ in range(rng.randint(4, 9))] for _ in range(3)]
    text = [token for _ in range(12) for token in rng.choice(phrases)]
    drafter = PromptLookupDrafter()
    drafter.open(1)
    opened, proposals = Open(1, text[:10], Sampling(), len(text)), []
    session = DraftSession(opened, 1)
    for at, token in enumerate(text[10:]):
        (found,) = drafter.propose([session.request_at(session.tree.cursor)])
        proposals.append([found.tokens, found.probabilities])
        session.commit(Commit(1, at, [token], 8))
    return {"text": text, "prompt": 10, "proposals": proposals}


def record_sampling(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    columns = sorted(rng.sample(range(400), 60))
    logits = [round(rng.gauss(0, 3), 3) for _ in columns]
    index, prompt = rng.randrange(8), [rng.randrange(400) for _ in range(5)]
    context = prompt + [rng.choice(columns) for _ in range(index)]
    sampling = Sampling(
        temperature=rng.choice((0.0, 0.3, 0.8, 1.5)),
        top_k=rng.choice((0, 0, 5)),
        top_p=rng.choice((1.0, 0.9)),
        min_p=rng.choice((0.0, 0.05)),
        seed=rng.getrandbits(63),
        frequency_penalty=rng.choice((0.0, 0.5)),
        presence_penalty=rng.choice((0.0, -0.5)),
        repetition_penalty=rng.choice((1.0, 1.3)),
        logit_bias={columns[3]: 2.5} if rng.random() < 0.3 else {},
    )
    return {
        "columns": columns,
        "logits": logits,
        "context": context,
        "index": index,
        "seed": str(sampling.seed),
        "sampling": msgspec.to_builtins(sampling, str_keys=True) | {"seed": 0},
        "expected": expected_proposal(sampling, logits, columns, context, index),
    }


def expected_proposal(
    sampling: Sampling, logits: list[float], columns: list[int], context: list[int], index: int
) -> list[list[float]]:
    start = len(context) - index
    counts = TokenCounts(sampling, context[:start], context[start:]) if has_penalties(sampling) else None
    ids = torch.tensor(columns)
    tokens, probabilities = propose_tokens(torch.tensor([logits]), sampling, [index], 6, ids, 400, token_counts=counts)
    return [tokens[0].tolist(), probabilities[0].tolist()]


def record_selection(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    costs, times = ForwardCosts(), []
    for _ in range(rng.randint(0, 12)):
        times.append((rng.randint(1, 16), round(rng.uniform(0.01, 0.05), 4)))
        costs.record(*times[-1])
    candidates = {
        session: sorted(((round(rng.random(), 6), node) for node in range(rng.randint(1, 6))), reverse=True)
        for session in range(1, rng.randint(2, 4))
    }
    return {
        "times": times,
        "candidates": list(candidates.items()),
        "selected": select_requests(candidates, costs.seconds),
    }


def record_noise(seed: int) -> list[Any]:
    """Seed, output index, token, and the bits of its noise as float32. Seeds are text: JSON has no 64-bit numbers."""
    rng = random.Random(seed)
    number, index, token = rng.getrandbits(63), rng.randrange(2**31), rng.randrange(150_000)
    noise = gumbel_at(number, index, np.array([token]))
    return [str(number), index, token, int(noise.view(np.uint32)[0])]


def as_lists(drafts: list[Draft]) -> list[list[Any]]:
    return [[d.epoch, d.at, d.first, d.tokens, d.parents, list(d.confidence)] for d in drafts]


def record() -> dict[str, Any]:
    """All vectors, as JSON holds them."""
    vectors = {
        "sessions": [record_session(seed) for seed in range(14)],
        "lookups": [record_lookup(seed) for seed in range(3)],
        "samplings": [record_sampling(seed) for seed in range(30)],
        "noise": [record_noise(seed) for seed in range(200)],
        "selections": [record_selection(seed) for seed in range(20)],
    }
    return json.loads(json.dumps(vectors))


if __name__ == "__main__":
    FILE.write_text(json.dumps(record(), separators=(",", ":")) + "\n")
