"""A real llama.cpp server as the drafter, beside the same model in torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from edge_agent.drafters.interface import NO_PROPOSAL, Drafter, DraftRequest, Proposal, first_chain
from edge_agent.drafters.loading import DrafterUnavailable, load_drafters
from edge_agent.drafters.pytorch.draft_model import load_draft, shipped_draft
from edge_agent.drafters.server import connection
from edge_agent.drafters.server.chains import ChainLength
from edge_agent.drafters.server.drafter import PREFILL_CHUNK
from edge_agent.settings import AgentSettings
from edgedraft.local.demo_model import DEMO_MODEL, ensure_demo_model, resolve_model
from edgedraft.sampling.sampler import propose_tokens
from edgedraft.tokenizer import fingerprint
from edgedraft.wire import Sampling
from loadtest.drafts.llama_server import LlamaServerProcess, llama_server
from tests.support.waiting import wait_until

VOCAB = 49152
CHAIN = 5
GREEDY = Sampling(temperature=0.0)
WARM = Sampling(temperature=0.8, top_p=0.9, top_k=30, seed=11)
PENALISED = Sampling(temperature=0.0, frequency_penalty=1.5, presence_penalty=0.5)
PROMPT = [1, 4093, 198, 1780, 506, 260, 6376, 4461, 47, 2, 198, 1, 520, 9531, 198]


@pytest.fixture(scope="module")
def server(draft_gguf: Path) -> Iterator[LlamaServerProcess]:
    with llama_server(draft_gguf, slots=3, kv_tokens=6144) as server:
        yield server


@pytest.fixture(scope="module")
def torch_draft() -> tuple[Any, torch.Tensor]:
    shipped = shipped_draft(DEMO_MODEL)
    assert shipped is not None
    model, head_ids = load_draft(shipped, resolve_model(DEMO_MODEL))
    assert head_ids is not None
    return model, head_ids


@pytest.fixture(autouse=True)
def chains_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChainLength, "choose", lambda self, greedy: CHAIN)


def settings(url: str, **options: Any) -> AgentSettings:
    return AgentSettings.model_validate({"url": "-", "key": "-", "draft_url": url, "prompt_lookup": False, **options})


def draft_with(url: str, vocab_size: int = VOCAB, **options: Any) -> Drafter:
    return load_drafters(settings(url, **options)).new_drafter(vocab_size)


@pytest.fixture
def drafter(server: LlamaServerProcess) -> Iterator[Drafter]:
    drafter = draft_with(server.url)
    drafter.open(1)
    yield drafter
    drafter.close(1)


def request(context: list[int], sampling: Sampling = GREEDY, session: int = 1, committed: int = 0) -> DraftRequest:
    committed = committed or len(context)
    return DraftRequest(session, context, committed, len(context) - len(PROMPT), sampling)


def complete(drafter: Drafter, asked: DraftRequest) -> Proposal:
    """Ask until the proposal is complete; a busy machine's server may take many times PATIENCE."""
    found: list[Proposal] = []

    def is_complete() -> bool:
        found[:] = drafter.propose([asked])
        return found[0].complete

    wait_until(is_complete, 60)
    return found[0]


@torch.inference_mode()
def best(draft: tuple[Any, torch.Tensor], context: list[int], sampling: Sampling) -> int:
    """The draft model's proposal in torch."""
    model, head_ids = draft
    logits = model(torch.tensor([context])).logits[0, -1:]
    return propose_tokens(logits, sampling, [len(context) - len(PROMPT)], 2, head_ids, VOCAB)[0][0].tolist()[0]


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_a_chain_has_the_tokens_that_the_same_model_proposes_in_torch(
    drafter: Drafter, torch_draft: tuple[Any, torch.Tensor], sampling: Sampling
) -> None:
    context, lengths = list(PROMPT), []
    for _ in range(4):
        proposal = complete(drafter, request(context, sampling))
        chain = first_chain(proposal)
        lengths.append(len(chain))
        assert len(proposal.expanded) == len(chain) - 1
        for token in chain:
            assert token == best(torch_draft, context, sampling)
            context.append(token)
        siblings = [
            sum(p for p, at in zip(proposal.probabilities, proposal.parents, strict=True) if at == parent)
            for parent in set(proposal.parents)
        ]
        assert max(siblings) <= 1 + 1e-6
    assert set(lengths) == {CHAIN} if sampling is GREEDY else 1 <= min(lengths) < CHAIN


def test_penalties_count_the_tokens_of_the_chain(drafter: Drafter) -> None:
    context = [*PROMPT, *PROMPT[:4]]
    chain = first_chain(complete(drafter, request(context, PENALISED)))
    again = first_chain(complete(drafter, request([*context, *chain[:1]], PENALISED, committed=len(context))))
    assert again[: len(chain) - 1] == chain[1:]


def test_after_a_miss_it_goes_on_from_the_common_prefix(
    drafter: Drafter, torch_draft: tuple[Any, torch.Tensor]
) -> None:
    complete(drafter, request([*PROMPT, 7, 8, 9, 10], committed=len(PROMPT)))
    other = [*PROMPT, 7, 500, 501]
    assert complete(drafter, request(other)).tokens[0] == best(torch_draft, other, GREEDY)


def test_a_long_context_comes_in_parts(drafter: Drafter, torch_draft: tuple[Any, torch.Tensor]) -> None:
    context = [(7 * i) % 40000 + 20 for i in range(PREFILL_CHUNK + 40)]
    assert not drafter.propose([request(context)])[0].complete
    assert complete(drafter, request(context)).tokens[0] == best(torch_draft, context, GREEDY)


def test_sessions_have_slots_and_one_too_many_gets_nothing(
    drafter: Drafter, torch_draft: tuple[Any, torch.Tensor]
) -> None:
    drafter.open(2)
    drafter.open(3)
    contexts = {1: PROMPT, 2: [*PROMPT, 99, 98]}
    for number, context in contexts.items():
        proposal = complete(drafter, request(context, session=number))
        assert proposal.tokens[0] == best(torch_draft, context, GREEDY)
    assert drafter.propose([request(PROMPT, session=3)]) == [NO_PROPOSAL], "the last slot is for its owner's own chats"
    drafter.close(2)
    drafter.open(3)
    assert complete(drafter, request(PROMPT, session=3)).tokens
    drafter.close(3)


def test_branches_of_one_session_are_drafted_too(drafter: Drafter, torch_draft: tuple[Any, torch.Tensor]) -> None:
    asked = [request([*PROMPT, *path], committed=len(PROMPT)) for path in ([], [99], [500, 501])]
    found: dict[int, Proposal] = {}

    def all_complete() -> bool:
        missing = [i for i in range(len(asked)) if i not in found]
        proposals = zip(missing, drafter.propose([asked[i] for i in missing]), strict=True)
        found.update({i: proposal for i, proposal in proposals if proposal.complete})
        return len(found) == len(asked)

    wait_until(all_complete, 60)
    for i, one in enumerate(asked):
        assert found[i].tokens[0] == best(torch_draft, one.context, GREEDY)


def test_what_it_cannot_draft_gets_nothing(drafter: Drafter) -> None:
    for context in ([], [5] * 6000):
        assert drafter.propose([request(context)]) == [NO_PROPOSAL]
    assert complete(drafter, request(PROMPT)).tokens


def test_a_token_that_is_part_of_a_character_is_proposed_without_its_probabilities(
    drafter: Drafter, torch_draft: tuple[Any, torch.Tensor]
) -> None:
    faces = [10813, 242, 218, 10813, 242, 221, 10813, 242, 222]
    context = [*PROMPT, *faces, 10813]
    proposal = complete(drafter, request(context))
    assert first_chain(proposal)[0] == best(torch_draft, context, GREEDY)


def test_tokens_beyond_the_targets_vocabulary_are_not_proposed(server: LlamaServerProcess) -> None:
    drafter = draft_with(server.url, vocab_size=300)
    drafter.open(1)
    assert all(token < 300 for token in complete(drafter, request([5, 6, 7])).tokens)
    drafter.close(1)


def test_an_agent_tells_what_it_drafts_with(server: LlamaServerProcess, draft_gguf: Path) -> None:
    drafters = load_drafters(settings(server.url))
    target = fingerprint((ensure_demo_model() / "tokenizer.json").read_bytes())
    assert drafters.fingerprint == target
    assert drafters.description == f"{draft_gguf.name} by llama-server at {server.url}"
    assert drafters.device == "llama-server"
    named = load_drafters(settings(server.url + "/v1", draft_tokenizer=DEMO_MODEL))
    assert named.fingerprint == target


def test_a_server_with_a_key(draft_gguf: Path, caplog: pytest.LogCaptureFixture) -> None:
    with llama_server(draft_gguf, slots=1, kv_tokens=512, key="s3cret") as server:
        with pytest.raises(DrafterUnavailable, match="--draft-key"):
            load_drafters(settings(server.url))
        with pytest.raises(DrafterUnavailable, match="--draft-key"):
            load_drafters(settings(server.url, draft_key="wrong"))
        drafters = load_drafters(settings(server.url, draft_key="s3cret"))
    assert "s3cret" not in drafters.description + caplog.text


def test_a_server_that_dies_is_missed_and_taken_again_when_it_is_back(
    draft_gguf: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "FIRST_BACKOFF", 0.05)
    monkeypatch.setattr(connection, "MAX_BACKOFF", 0.2)
    with llama_server(draft_gguf, slots=1, kv_tokens=512) as server:
        drafter = draft_with(server.url)
        drafter.open(1)
        before = complete(drafter, request(PROMPT)).tokens
        server.kill()
        wait_until(lambda: drafter.propose([request(PROMPT)]) == [NO_PROPOSAL], 10)
        for _ in range(3):
            assert drafter.propose([request(PROMPT)]) == [NO_PROPOSAL]
        warnings = [record for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1
        assert server.url in warnings[0].getMessage()
        again = LlamaServerProcess(draft_gguf, slots=1, kv_tokens=512, port=server.port)
    try:
        wait_until(lambda: bool(drafter.propose([request(PROMPT)])[0].tokens), 60)
        assert complete(drafter, request(PROMPT)).tokens == before
    finally:
        again.kill()


def test_neither_torch_nor_transformers_is_imported(server: LlamaServerProcess) -> None:
    """As on a desktop that has neither installed."""
    program = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = sys.modules["tokenizers"] = None
from edge_agent.main import main
from edge_agent.drafters.candidates import find_candidates
from edge_agent.settings import AgentSettings
settings = AgentSettings.model_validate({{"url": "-", "key": "-", "draft_url": {server.url!r}}})
print(find_candidates(settings)[0][0].load().device)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout.strip(), done.returncode) == ("llama-server", 0), done.stderr
