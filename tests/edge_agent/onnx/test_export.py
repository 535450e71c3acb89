"""Exported drafts: what is in the folder, and that its graphs compute what the model computes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from edge_agent.drafters.pytorch.draft_model import load_draft, read_spec, shipped_draft
from edge_agent.onnx import export
from edge_agent.onnx.contract import MASKED, VariantName
from edge_agent.onnx.export import export_draft
from edge_agent.onnx.folder import is_exported, read_head_ids
from edge_agent.onnx.model import DraftBatch, OnnxModel, load_model
from edge_agent.onnx.weights import UnsupportedDraft
from edge_agent.settings import DraftExportSettings
from edgedraft.draft_manifest import read_manifest
from edgedraft.local.demo_model import DEMO_MODEL, ensure_demo_model
from tests.support.tiny_llama import VOCAB

SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def chain_logits(model: OnnxModel, tokens: list[int]) -> np.ndarray:
    """Logits [tokens, columns] of one text in one run."""
    count, sizes = len(tokens), model.manifest
    mask = np.full((count, 1 + count), MASKED, np.float32)
    mask[:, 1:][np.tri(count, dtype=np.bool_)] = 0
    past = np.zeros((2 * sizes.layers, sizes.kv_heads, 1, sizes.head_dim), model.kv_dtype)
    return model.run(DraftBatch(np.array(tokens), np.arange(count), mask, np.arange(count), past))[0]


def save_with_tokenizer(model: PreTrainedModel, target: Path, folder: Path) -> None:
    model.save_pretrained(folder)
    shutil.copy(target / "tokenizer.json", folder)


@pytest.mark.long
def test_the_folder_of_the_shipped_draft(exported: Path) -> None:
    shipped = shipped_draft(DEMO_MODEL)
    assert shipped is not None
    spec, manifest = read_spec(shipped), read_manifest(exported)
    assert (manifest.target, manifest.fingerprint) == (DEMO_MODEL, spec.tokenizer)
    assert (manifest.layers, manifest.kv_heads, manifest.head_dim) == (8, 3, 64)
    assert (manifest.vocab_size, manifest.columns, manifest.context_length) == (49152, spec.head_size, 8192)
    assert {name: variant.kv_dtype for name, variant in manifest.variants.items()} == {
        "int8": "float32",
        "fp16": "float16",
    }
    _, ids = load_draft(shipped, ensure_demo_model())
    assert ids is not None
    assert read_head_ids(exported, manifest).tolist() == sorted(ids.tolist())
    assert manifest.variants["int8"].file.bytes < 67_000_000
    assert manifest.variants["fp16"].file.bytes < 105_000_000
    for variant in manifest.variants.values():
        graph = onnx.load(exported / variant.file.name)
        onnx.checker.check_model(graph)
        assert {node.domain for node in graph.graph.node} == {""}, "operators that every runtime has"
        assert not any(tensor.external_data for tensor in graph.graph.initializer)


@pytest.mark.parametrize("variant", ["int8", "fp16"])
@torch.inference_mode()
def test_logits_of_the_shipped_draft_are_those_of_torch(exported: Path, variant: VariantName, text: list[int]) -> None:
    """But for the rounding of the embeddings: the same first guess at 99 % of a text, and no logit far away."""
    shipped, demo = shipped_draft(DEMO_MODEL), ensure_demo_model()
    assert shipped is not None
    model, ids = load_draft(shipped, demo)
    assert ids is not None
    expected = model(torch.tensor([text])).logits[0].numpy()[:, np.argsort(ids.numpy())]
    logits = chain_logits(load_model(exported, "cpu", 1, variant), text)
    assert (logits.argmax(-1) == expected.argmax(-1)).mean() >= 0.99
    assert np.abs(logits - expected).max() < 0.1 * expected.std()


@pytest.mark.parametrize(
    "model",
    [
        Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True)),
        Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
        MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=64)),
    ],
    ids=["qwen2: biases, tied embeddings", "qwen3: norms of queries and keys", "mistral: a sliding window"],
)
def test_relatives_of_llama_are_exported_too(model: Any, target: Path, tmp_path: Path) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "q_norm.weight", "k_norm.weight")):
                parameter.copy_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1)) + 0.5)
    save_with_tokenizer(model, target, tmp_path / "model")
    export_draft(str(tmp_path / "model"), tmp_path / "onnx")
    tokens = [5, 17, 80, 3, 44, 21, 9]
    with torch.inference_mode():
        expected = model.eval()(torch.tensor([tokens])).logits[0].numpy()
    exported = load_model(tmp_path / "onnx", "cpu", 1, "int8")
    assert exported.manifest.context_length == (64 if isinstance(model, MistralForCausalLM) else 256)
    assert np.abs(chain_logits(exported, tokens) - expected).max() < 0.1 * expected.std()


def settings(name: str, folder: Path) -> DraftExportSettings:
    return DraftExportSettings.model_validate({"draft": str(folder / name), "onnx": folder / "onnx"})


def test_other_models_are_refused_and_leave_no_manifest(target: Path, tmp_path: Path) -> None:
    save_with_tokenizer(
        GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=1, n_head=2)), target, tmp_path / "model"
    )
    with pytest.raises(SystemExit, match="edgedraft draft export: GPT2LMHeadModel is not of the Llama family"):
        export.main(settings("model", tmp_path))
    assert not is_exported(tmp_path / "onnx")
    with pytest.raises(SystemExit, match=r"edgedraft draft export: .*nowhere"):
        export.main(settings("nowhere", tmp_path))


def test_a_graph_that_computes_something_else_is_refused(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a model whose rotary embedding has been changed behind the export's back."""
    read = export.read_weights

    def read_wrong(model: PreTrainedModel) -> Any:
        weights = read(model)
        weights.inverse_frequencies[:] *= 1.5
        return weights

    monkeypatch.setattr(export, "read_weights", read_wrong)
    with pytest.raises(UnsupportedDraft, match="does not compute what the model does"):
        export_draft(str(target), tmp_path / "onnx")
    assert not is_exported(tmp_path / "onnx")
