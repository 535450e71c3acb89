"""From settings to drafters: which model is loaded, whose tokenizer it uses, and the error when none fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from transformers import MambaConfig, MambaForCausalLM

from edge_agent.drafters import loading
from edge_agent.drafters.loading import DrafterUnavailable, load_drafters
from edge_agent.drafters.pytorch.draft_model import FORMAT, HEAD_IDS, SPEC_FILE, WEIGHTS_FILE, DraftSpec
from edge_agent.settings import AgentSettings
from edgedraft.tokenizer import fingerprint
from tests.edge_agent.tiny_drafter import point
from tests.support.tiny_llama import VOCAB, greedy_text, tiny_llama

PROMPT = [5, 17, 80, 3, 44, 21, 9]


def settings(**values: Any) -> AgentSettings:
    return AgentSettings(
        **{"url": "http://127.0.0.1", "key": "k", "device": "cpu", "dtype": "float32", "kv_tokens": 512, **values}
    )


def first_proposed(drafters: loading.DrafterSet) -> int:
    drafter = drafters.new_drafter(VOCAB)
    drafter.open(1)
    return drafter.propose([point(PROMPT)])[0].tokens[0]


def test_a_folder_is_loaded_with_its_own_tokenizer(target: Path) -> None:
    drafters = load_drafters(settings(draft_model=str(target)))
    assert drafters.fingerprint == fingerprint((target / "tokenizer.json").read_bytes())
    assert drafters.description == f"{target.name} on cpu in float32, prompt lookup"
    assert first_proposed(drafters) == greedy_text(PROMPT, 1)[0]


def test_memory_bounds_the_cache_and_too_little_is_said(target: Path) -> None:
    weights = sum(parameter.nbytes for parameter in tiny_llama().parameters())
    token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, numbers, bytes
    bound = settings(draft_model=str(target), kv_tokens=5000, max_memory=(weights + 300.5 * token) / 1e9)
    assert loading.fit_kv_tokens(bound, weights, token) == 300
    assert first_proposed(load_drafters(bound)) == greedy_text(PROMPT, 1)[0]
    with pytest.raises(DrafterUnavailable, match="--max-memory allows"):
        load_drafters(settings(draft_model=str(target), max_memory=(weights + 100 * token) / 1e9))


def test_a_distilled_draft_stands_for_its_targets_tokenizer(target: Path, tmp_path: Path) -> None:
    model = tiny_llama()
    ids = [3, 96, greedy_text(PROMPT, 1)[0], 41]
    state = {
        name: tensor for name, tensor in model.state_dict().items() if name.startswith(("model.layers", "model.n"))
    }
    state |= {"lm_head.weight": model.lm_head.weight[ids].detach().clone(), HEAD_IDS: torch.tensor(ids)}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / WEIGHTS_FILE)
    spec = DraftSpec(str(target), (0, 1), HEAD_IDS, len(ids), "", format=FORMAT)
    (tmp_path / SPEC_FILE).write_bytes(msgspec.json.encode(spec))
    drafters = load_drafters(settings(draft_model=str(tmp_path), prompt_lookup=False))
    assert drafters.fingerprint == fingerprint((target / "tokenizer.json").read_bytes())
    assert drafters.description == f"{tmp_path.name} on cpu in float32"
    assert first_proposed(drafters) == ids[2]


def test_without_a_model_there_is_no_tokenizer() -> None:
    drafters = load_drafters(settings(draft_model="none"))
    assert (drafters.fingerprint, drafters.description) == ("", "prompt lookup")


def test_auto_takes_the_draft_that_comes_along_or_prompt_lookup_alone(
    target: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "shipped_draft", lambda name: target)
    assert load_drafters(settings()).description.startswith(target.name)
    monkeypatch.setattr(loading, "shipped_draft", lambda name: None)
    assert load_drafters(settings()).description == "prompt lookup"
    assert "prompt lookup alone" in caplog.text


def test_threads_are_as_told_or_leave_one_core_free(target: Path) -> None:
    torch.set_num_threads(2)
    load_drafters(settings(draft_model=str(target)))
    assert torch.get_num_threads() == 1
    load_drafters(settings(draft_model=str(target)))
    assert torch.get_num_threads() == 1
    load_drafters(settings(draft_model=str(target), threads=2))
    assert torch.get_num_threads() == 2


def test_what_cannot_draft_says_why(target: Path, tmp_path: Path) -> None:
    with pytest.raises(DrafterUnavailable, match="nothing to draft with"):
        load_drafters(settings(draft_model="none", prompt_lookup=False))
    with pytest.raises(DrafterUnavailable, match=r"cannot draft with .*nowhere"):
        load_drafters(settings(draft_model=str(tmp_path / "nowhere")))
    tiny_llama().save_pretrained(tmp_path / "mute")
    with pytest.raises(DrafterUnavailable, match=r"tokenizer\.json"):
        load_drafters(settings(draft_model=str(tmp_path / "mute")))
    mamba = MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(mamba).save_pretrained(tmp_path / "mamba")
    with pytest.raises(DrafterUnavailable, match="MambaForCausalLM"):
        load_drafters(settings(draft_model=str(tmp_path / "mamba")))
