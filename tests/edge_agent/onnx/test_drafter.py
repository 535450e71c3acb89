"""The ONNX drafter proposes what the torch drafter does, and what a fresh run would, whatever its KV cache holds."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_agent.drafters.forwards import schedule
from edge_agent.drafters.interface import INCOMPLETE, NO_PROPOSAL, Drafter, DraftRequest, Proposal
from edge_agent.drafters.pytorch.draft_model import load_draft, shipped_draft
from edge_agent.drafters.pytorch.drafter import ModelDrafter
from edge_agent.onnx import drafter as onnx_drafter
from edge_agent.onnx.contract import VariantName
from edge_agent.onnx.drafter import OnnxDrafter
from edge_agent.onnx.model import DraftBatch, OnnxModel, load_model
from edgedraft.local.demo_model import DEMO_MODEL, ensure_demo_model
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.wire import Sampling
from tests.support.tiny_llama import VOCAB

GREEDY = Sampling(temperature=0.0)
WARM = Sampling(temperature=0.8, seed=7)
PENALISED = Sampling(temperature=0.8, seed=3, top_p=0.95, repetition_penalty=1.2, frequency_penalty=0.5)
PROMPT = [5, 17, 80, 3, 44, 21, 9]


class Runs:
    """Records the rows of each run of a model."""

    def __init__(self, model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.scores: list[int] = []  # rows * keys that are in use
        inner = model.run

        def run(batch: DraftBatch) -> Any:
            self.rows.append(len(batch.tokens))
            self.scores.append(len(batch.tokens) * int((batch.mask == 0).any(axis=0).sum()))
            return inner(batch)

        monkeypatch.setattr(model, "run", run)


@pytest.fixture
def model(tiny: Path) -> OnnxModel:
    return load_model(tiny, "cpu", 1)


def request(
    context: Sequence[int], committed: int | None = None, session: int = 1, sampling: Sampling = GREEDY, prompt: int = 7
) -> DraftRequest:
    settled = len(context) if committed is None else committed
    return DraftRequest(session, list(context), settled, max(0, len(context) - prompt), sampling)


def complete(drafter: Drafter, asked: DraftRequest) -> Proposal:
    for _ in range(200):
        [proposal] = drafter.propose([asked])
        if proposal.complete:
            return proposal
    raise AssertionError("never complete")


def assert_fresh(proposal: Proposal, asked: DraftRequest, model: OnnxModel) -> None:
    """The proposal is that of a drafter that has drafted nothing before, but for the rounding of activations."""
    fresh = OnnxDrafter(model, VOCAB, 2048)
    fresh.open(asked.session)
    expected = complete(fresh, asked)
    likely = {token: p for token, p in zip(proposal.tokens, proposal.probabilities, strict=True) if p > 0.05}
    known = dict(zip(expected.tokens, expected.probabilities, strict=True))
    assert likely
    assert likely == pytest.approx({token: known.get(token, 0.0) for token in likely}, abs=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("sampling", [GREEDY, WARM, PENALISED], ids=["greedy", "temperature 0.8", "with penalties"])
def test_it_proposes_what_the_torch_drafter_proposes(exported: Path, text: list[int], sampling: Sampling) -> None:
    """With the same noise: the same first guess at 95 % of a text's positions, at nearly the same probability."""
    shipped = shipped_draft(DEMO_MODEL)
    assert shipped is not None
    draft, head_ids = load_draft(shipped, ensure_demo_model())
    drafters = [
        ModelDrafter(PackedModel(draft, 1024), 1024, 49152, head_ids),
        OnnxDrafter(load_model(exported, "cpu", 1), 49152, 1024),
    ]
    for drafter in drafters:
        drafter.open(1)
    same, differences = 0, list[float]()
    for end in range(30, len(text), 2):
        asked = request(text[:end], sampling=sampling, prompt=30)
        expected, found = (complete(drafter, asked) for drafter in drafters)
        same += expected.tokens[0] == found.tokens[0]
        differences.append(abs(expected.probabilities[0] - found.probabilities[0]))
    assert same >= 0.95 * len(differences)
    assert np.mean(differences) < 0.02


def test_a_tree_costs_one_row_a_node_and_a_commit_none(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    drafter, runs = OnnxDrafter(model, VOCAB, 2048), Runs(model, monkeypatch)
    drafter.open(1)
    for asked in (
        [request(PROMPT)],
        [request([*PROMPT, *path], 7) for path in ([1], [2], [1, 3], [1, 4])],
        [request([*PROMPT, *path], 7) for path in ([1, 3, 5], [2, 6])],
        [request([*PROMPT, 1, 3, 5, 8], 9)],  # two of them are committed
        [request([*PROMPT, 1, 3, 9], 9)],  # another branch
        [request([*PROMPT, 1, 3, 5], 10)],  # a rollback to what is there already, run again for its logits
    ):
        for proposal, its in zip(drafter.propose(asked), asked, strict=True):
            fresh_runs = len(runs.rows)
            assert_fresh(proposal, its, model)
            del runs.rows[fresh_runs:]
    assert runs.rows == [7, 4, 2, 1, 1, 1]


def test_several_sessions_share_a_run_and_see_nothing_of_each_other(
    model: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = OnnxDrafter(model, VOCAB, 2048)
    texts = {session: [(session * 31 + i * i) % VOCAB for i in range(10 * session)] for session in (1, 2, 3, 4)}
    for session in texts:
        drafter.open(session)
    with monkeypatch.context() as patched:
        runs = Runs(model, patched)
        first = drafter.propose([request(text, session=session) for session, text in texts.items() if session < 4])
        later = [request([*text, 7], session=session) for session, text in texts.items()]
        found = drafter.propose(later)
    assert runs.rows == [60, 44]
    assert all(proposal.complete for proposal in first)
    for proposal, asked in zip(found, later, strict=True):
        assert_fresh(proposal, asked, model)


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "temperature 0.8"])
@pytest.mark.parametrize(
    ("kv_tokens", "max_rows", "max_scores"), [(2048, 64, 1 << 18), (160, 16, 1 << 18), (160, 64, 900)]
)
def test_over_random_trees_all_proposals_are_those_of_a_fresh_run(
    model: OnnxModel,
    kv_tokens: int,
    max_rows: int,
    max_scores: int,
    sampling: Sampling,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three sessions that evict each other, commits that hit and miss, branches, and prefill in chunks among them."""
    monkeypatch.setattr(schedule, "MAX_ROWS", max_rows)
    monkeypatch.setattr(onnx_drafter, "MAX_SCORES", max_scores)
    drafter, rng = OnnxDrafter(model, VOCAB, kv_tokens), random.Random(kv_tokens + max_rows)
    drafter._schedule.max_rows = max_rows
    texts = {session: [rng.randrange(VOCAB) for _ in range(20 * session)] for session in (1, 2, 3)}
    paths: dict[int, list[tuple[int, ...]]] = {session: [()] for session in texts}
    for session in texts:
        drafter.open(session)
    checked = 0
    for step in range(60):
        asked: list[DraftRequest] = []
        for session in rng.sample(sorted(texts), rng.randint(1, 3)):
            own = paths[session]
            own.append((*rng.choice(own[-8:]), rng.randrange(VOCAB)))
            if rng.random() < 0.3:
                hit = rng.choice(own)[:2] if rng.random() < 0.7 else (rng.randrange(VOCAB),)
                texts[session] += hit
                own[:] = [p[len(hit) :] for p in own if p[: len(hit)] == hit] or [()]
            for path in rng.sample(own, min(3, len(own))):
                asked.append(request([*texts[session], *path], len(texts[session]), session, sampling))
        with monkeypatch.context() as patched:
            runs = Runs(model, patched)
            found = drafter.propose(asked)
        assert all(scores <= max_scores for scores, rows in zip(runs.scores, runs.rows, strict=True) if rows > 1)
        for proposal, its in zip(found, asked, strict=True):
            if proposal.complete and step % 4 == 0:
                assert_fresh(proposal, its, model)
                checked += 1
    assert checked > 20
    for session in texts:
        drafter.close(session)
        drafter.close(session)
    slots = drafter._schedule._new_slots()
    slots.reserve_slots(kv_tokens)  # all of it is free again


def test_long_contexts_come_in_chunks_and_hold_nobody_up(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "MAX_ROWS", 64)
    drafter, runs = OnnxDrafter(model, VOCAB, 2048), Runs(model, monkeypatch)
    long = [i % VOCAB for i in range(200)]
    drafter.open(1)
    drafter.open(2)
    complete(drafter, request(PROMPT, session=2))
    first, second = drafter.propose([request(long), request([*PROMPT, 1], session=2)])
    assert first == INCOMPLETE
    assert second.tokens
    proposal = complete(drafter, request(long))
    assert sum(runs.rows) == len(long) + len(PROMPT) + 1
    assert_fresh(proposal, request(long), model)


def test_what_it_cannot_run_gets_no_proposal(model: OnnxModel) -> None:
    drafter = OnnxDrafter(model, VOCAB, 96)
    drafter.open(1)
    assert complete(drafter, request([1] * 96)).tokens
    assert drafter.propose([request([1] * 97)]) == [NO_PROPOSAL]
    assert drafter.propose([request([])]) == [NO_PROPOSAL]
    large = OnnxDrafter(model, VOCAB, 1024)
    large.open(1)
    assert large.propose([request([1] * 513)]) == [NO_PROPOSAL], "longer than the model's own context"
    foreign = OnnxDrafter(model, 500, 96)
    foreign.open(1)
    assert foreign.propose([request([1, 300])]) == [NO_PROPOSAL]
    assert max(complete(foreign, request([1, 3])).tokens) < VOCAB


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_proposals_lie_in_the_targets_vocabulary(model: OnnxModel, sampling: Sampling) -> None:
    drafter = OnnxDrafter(model, 40, 512)
    drafter.open(1)
    for end in range(1, 30):
        assert max(complete(drafter, request([i % 40 for i in range(end)], sampling=sampling)).tokens) < 40


def test_a_failed_run_changes_nothing(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = OnnxDrafter(model, VOCAB, 512)
    drafter.open(1)
    complete(drafter, request(PROMPT))
    with monkeypatch.context() as broken:
        broken.setattr(model, "run", lambda batch: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            drafter.propose([request([*PROMPT, 1, 2], 7), request([*PROMPT, 3], 7)])
    asked = request([*PROMPT, 1, 4], 7)
    assert_fresh(complete(drafter, asked), asked, model)


def test_it_needs_neither_torch_nor_transformers(tiny: Path) -> None:
    program = f"""
import sys
from edge_agent.drafters.loading import load_drafters
from edge_agent.drafters.interface import DraftRequest
from edge_agent.settings import AgentSettings
from edgedraft.wire import Sampling
drafters = load_drafters(AgentSettings(url="http://127.0.0.1", key="k", draft_model={str(tiny)!r}, threads=1))
drafter = drafters.new_drafter({VOCAB})
drafter.open(1)
assert drafter.propose([DraftRequest(1, {PROMPT}, 7, 0, Sampling(seed=1))])[0].tokens
print(drafters.description, sorted({{"torch", "transformers", "onnx"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], check=True, capture_output=True, text=True)
    assert " on cpu in int8 by ONNX Runtime, prompt lookup" in done.stdout
    assert done.stdout.endswith(" []\n")


@pytest.mark.parametrize("variant", ["int8", "fp16"])
def test_both_variants_draft_along_a_text_as_torch_does(tiny: Path, target: Path, variant: VariantName) -> None:
    """This model's weights have not been int8 before, hence a bound on the probabilities and not on each guess."""
    plain, _ = load_draft(target)
    drafter = OnnxDrafter(load_model(tiny, "cpu", 1, variant), VOCAB, 512)
    drafter.open(1)
    differences: list[float] = []
    for end in range(2, 40, 3):
        context = [(i * i + 3) % VOCAB for i in range(end)]
        with torch.inference_mode():
            expected = plain(torch.tensor([context])).logits[0, -1].softmax(-1)
        found = complete(drafter, request(context))
        differences += [abs(p - float(expected[t])) for t, p in zip(found.tokens, found.probabilities, strict=True)]
    assert np.mean(differences) < 0.02
