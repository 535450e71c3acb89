"""GGUF drafts: a real file of three of the demo target's layers, run by llama.cpp, beside the same model in torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from edge_agent.drafters.gguf.drafter import PREFILL_CHUNK, GgufDrafter, LlamaCpp, read_gguf_metadata
from edge_agent.drafters.interface import NO_PROPOSAL, DraftRequest, Proposal
from edge_agent.drafters.loading import DrafterUnavailable, load_drafters
from edge_agent.drafters.proposals.from_top_tokens import propose_from_top_tokens
from edge_agent.settings import AgentSettings
from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.sampling.sampler import propose_tokens
from edgedraft.sampling.token_counts import TokenCounts
from edgedraft.tokenizer import fingerprint
from edgedraft.wire import Sampling
from loadtest.peers.engines.write_gguf import write_gguf

LAYERS = 3
VOCAB = 49152
GREEDY = Sampling(temperature=0.0)
WARM = Sampling(temperature=0.8, top_p=0.9, top_k=30, seed=11)
PROMPT = [1, 4093, 198, 1780, 506, 260, 6376, 4461, 47, 2, 198, 1, 520, 9531, 198]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole, cut = ensure_demo_model(), tmp_path_factory.mktemp("cut")
    config = json.loads((whole / "config.json").read_text())
    config["num_hidden_layers"] = LAYERS
    config.pop("layer_types", None)
    (cut / "config.json").write_text(json.dumps(config))
    shutil.copy(whole / "tokenizer.json", cut)
    kept = {
        name: tensor
        for name, tensor in load_file(whole / "model.safetensors").items()
        if not name.startswith("model.layers.") or int(name.split(".")[2]) < LAYERS
    }
    save_file(kept, cut / "model.safetensors", {"format": "pt"})
    return cut


@pytest.fixture(scope="module")
def gguf(folder: Path) -> Path:
    path = folder / "draft.gguf"
    write_gguf(folder, path, "float32")
    return path


@pytest.fixture(scope="module")
def torch_model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def model(gguf: Path) -> LlamaCpp:
    return LlamaCpp(gguf, slots=2, kv_tokens=4096, threads=1, on_cpu=True)


@pytest.fixture
def drafter(model: LlamaCpp) -> Iterator[GgufDrafter]:
    drafter = GgufDrafter(model, VOCAB)
    yield drafter
    drafter.close(1)


@torch.inference_mode()
def expected(model: PreTrainedModel, context: list[int], sampling: Sampling, index: int) -> list[int]:
    logits = model(torch.tensor([context])).logits[0, -1:]
    return propose_tokens(logits, sampling, [index], 2)[0][0].tolist()


def point(
    context: list[int], sampling: Sampling = GREEDY, session: int = 1, settled: int | None = None
) -> DraftRequest:
    return DraftRequest(session, context, len(context) if settled is None else settled, 3, sampling)


def complete(drafter: GgufDrafter, asked: DraftRequest) -> Proposal:
    for _ in range(50):
        [answer] = drafter.propose([asked])
        if answer.complete:
            return answer
    raise AssertionError("never complete")


@pytest.mark.parametrize("sampling", [GREEDY, WARM, Sampling(temperature=1.0, seed=5)])
def test_it_proposes_what_the_same_model_proposes_in_torch(
    drafter: GgufDrafter, torch_model: PreTrainedModel, sampling: Sampling
) -> None:
    drafter.open(1)
    context = list(PROMPT)
    for _ in range(6):
        [answer] = drafter.propose([point(context, sampling)])
        assert answer.tokens[0] == expected(torch_model, context, sampling, 3)[0]
        assert sum(answer.probabilities) <= 1 + 1e-6
        context.append(answer.tokens[0])


def test_after_a_miss_it_goes_on_from_the_common_prefix(drafter: GgufDrafter, torch_model: PreTrainedModel) -> None:
    drafter.open(1)
    complete(drafter, point([*PROMPT, 7, 8, 9, 10], settled=len(PROMPT)))
    other = [*PROMPT, 7, 500, 501]
    assert complete(drafter, point(other)).tokens[0] == expected(torch_model, other, GREEDY, 3)[0]


def test_a_long_context_comes_in_parts(drafter: GgufDrafter, torch_model: PreTrainedModel) -> None:
    drafter.open(1)
    context = [(7 * i) % 40000 + 20 for i in range(2 * PREFILL_CHUNK + 40)]
    asked = point(context)
    [first] = drafter.propose([asked])
    assert not first.complete
    assert complete(drafter, asked).tokens[0] == expected(torch_model, context, GREEDY, 3)[0]


def test_requests_of_one_session_come_in_turn_and_in_order(drafter: GgufDrafter, torch_model: PreTrainedModel) -> None:
    drafter.open(1)
    drafter.open(2)
    paths = [[], [99], [500], [99, 98], [500, 501, 502], [99]]
    asked = [point([*PROMPT, *path], session=1 + i % 2, settled=len(PROMPT)) for i, path in enumerate(paths * 2)]
    for answer, request in zip(drafter.propose(asked), asked, strict=True):
        assert answer.tokens[0] == expected(torch_model, request.context, GREEDY, 3)[0]
    drafter.close(2)


def test_requests_of_one_session_take_one_chunk_of_a_long_context(drafter: GgufDrafter) -> None:
    drafter.open(1)
    context = [(7 * i) % 40000 + 20 for i in range(2 * PREFILL_CHUNK + 40)]
    rounds = 0
    while not all(answer.complete for answer in drafter.propose([point(context)] * 8)):
        rounds += 1
    assert rounds == 2


def test_sessions_have_slots_of_their_own_and_one_too_many_gets_nothing(
    drafter: GgufDrafter, torch_model: PreTrainedModel
) -> None:
    contexts = {1: PROMPT, 2: [*PROMPT, 99, 98]}
    for number in (1, 2, 3):
        drafter.open(number)
    answers = drafter.propose([point(contexts.get(number, PROMPT), session=number) for number in (1, 2, 3)])
    for number, context in contexts.items():
        assert answers[number - 1].tokens[0] == expected(torch_model, context, GREEDY, 3)[0]
    assert answers[2] == NO_PROPOSAL
    drafter.close(2)
    drafter.open(3)
    assert complete(drafter, point(PROMPT, session=3)) == complete(drafter, point(PROMPT))
    drafter.close(3)


def test_what_it_cannot_draft_gets_nothing_and_harms_nobody(drafter: GgufDrafter, model: LlamaCpp) -> None:
    drafter.open(1)
    for context in ([], [VOCAB + 5], [5] * model.max_context):
        assert drafter.propose([point(context)]) == [NO_PROPOSAL]
    assert complete(drafter, point(PROMPT)).tokens


def test_tokens_beyond_the_targets_vocabulary_are_not_proposed(model: LlamaCpp) -> None:
    drafter = GgufDrafter(model, 300)
    drafter.open(1)
    assert all(token < 300 for token in complete(drafter, point([5, 6, 7])).tokens)
    drafter.close(1)


def test_the_best_tokens_of_a_short_list_are_those_of_all_logits() -> None:
    logits = torch.randn(1, 400, generator=torch.Generator().manual_seed(1)) * 4
    logps, tokens = logits[0].log_softmax(0).sort(descending=True)
    top = list(zip(tokens.tolist(), logps.tolist(), strict=True))
    favourites = [token for token, _ in top[:6]]
    penalised = Sampling(
        temperature=0.7, frequency_penalty=1.5, presence_penalty=0.5, logit_bias={favourites[3]: 4.0}, top_k=30, seed=5
    )
    for sampling in (GREEDY, WARM, Sampling(seed=3), Sampling(temperature=0.5, min_p=0.1, seed=4), penalised):
        history = TokenCounts(sampling, (), [*favourites, favourites[0]]) if sampling is penalised else None
        wanted, probabilities = propose_tokens(logits, sampling, [9], 3, token_counts=history)
        found = propose_from_top_tokens(top, sampling, 9, history)
        count = min(3, len(found.tokens))
        assert list(found.tokens[:count]) == wanted[0, :count].tolist()
        assert found.probabilities[:count] == pytest.approx(probabilities[0, :count].tolist(), abs=1e-4)


def test_the_tokenizer_inside_has_the_fingerprint_of_tokenizer_json(gguf: Path, folder: Path) -> None:
    assert read_gguf_metadata(gguf).fingerprint == fingerprint((folder / "tokenizer.json").read_bytes())


def test_an_agent_loads_it_by_its_name(gguf: Path, folder: Path, tmp_path: Path) -> None:
    settings = AgentSettings.model_validate(
        {
            "url": "http://127.0.0.1",
            "key": "k",
            "draft_model": str(gguf),
            "threads": 1,
            "kv_tokens": 2048,
            "max_sessions": 1,
            "device": "cpu",
        }
    )
    drafters = load_drafters(settings)
    assert drafters.fingerprint == fingerprint((folder / "tokenizer.json").read_bytes())
    assert drafters.description == "draft.gguf by llama.cpp, prompt lookup"
    facts = read_gguf_metadata(gguf)
    assert facts.kv_bytes_per_token == 2 * LAYERS * 3 * 64 * 2
    with pytest.raises(DrafterUnavailable, match="--max-memory allows"):
        load_drafters(settings.model_copy(update={"max_memory": 0.1}))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(64))
    for wrong in ("bad.gguf", "none.gguf"):
        with pytest.raises(DrafterUnavailable, match="cannot draft with"):
            load_drafters(settings.model_copy(update={"draft_model": str(tmp_path / wrong)}))
