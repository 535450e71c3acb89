"""What is wrong with a folder is said in one line before it drafts; and which provider runs a good one."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_agent import main as agent
from edge_agent.drafters.interface import DraftRequest
from edge_agent.drafters.loading import DrafterUnavailable, load_drafters
from edge_agent.onnx import providers
from edge_agent.onnx.graph import build_graph
from edge_agent.onnx.model import load_model
from edge_agent.onnx.providers import Provider, ProviderDevice
from edge_agent.onnx.weights import read_weights
from edge_agent.settings import AgentSettings
from edgedraft.wire import Sampling
from tests.edge_agent.onnx.test_export import chain_logits
from tests.support.tiny_llama import VOCAB, tiny_llama


def settings(folder: Path, **values: Any) -> AgentSettings:
    return AgentSettings.model_validate(
        {"url": "http://127.0.0.1", "key": "k", "draft_model": str(folder), "threads": 1, "kv_tokens": 512, **values}
    )


def rewrite_manifest(folder: Path, **values: Any) -> None:
    document = json.loads((folder / "draft.json").read_text())
    (folder / "draft.json").write_text(json.dumps(document | values))


def rewrite_graph(folder: Path, data: bytes) -> None:
    """Replace the int8 graph, with the checksum of the new one in the manifest."""
    (folder / "draft.int8.onnx").write_bytes(data)
    file = {"name": "draft.int8.onnx", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite_manifest(folder, variants={"int8": {"file": file, "kv_dtype": "float32"}})


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / "draft.int8.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "draft.int8.onnx").write_bytes(data)


def cut(folder: Path) -> None:
    data = (folder / "draft.int8.onnx").read_bytes()
    (folder / "draft.int8.onnx").write_bytes(data[: len(data) // 2])


def load_graph(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / "draft.int8.onnx")


def another_graph(folder: Path) -> None:
    """The graph of a draft for another target."""
    other = tiny_llama(num_attention_heads=4, num_key_value_heads=4)
    rewrite_graph(folder, build_graph(read_weights(other), "int8").SerializeToString())


def an_output_of_another_shape(folder: Path) -> None:
    """One that its declaration hides: the logits' width is only known when the graph runs."""
    graph = load_graph(folder).graph
    for node in graph.node:
        node.output[:] = ["whole" if name == "logits" else name for name in node.output]
    graph.initializer.append(helper.make_tensor("two", TensorProto.INT64, [1], [2]))
    graph.initializer.append(helper.make_tensor("last", TensorProto.INT64, [1], [1]))
    graph.node.append(helper.make_node("Slice", ["whole", "zeros", "two", "last"], ["logits"]))
    graph.node.append(helper.make_node("Shape", ["two"], ["zeros"]))
    model = load_graph(folder)
    model.graph.CopyFrom(graph)
    rewrite_graph(folder, model.SerializeToString())


def weights_in_another_file(folder: Path) -> None:
    model = load_graph(folder)
    tensor = next(t for t in model.graph.initializer if t.name == "embeddings")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    rewrite_graph(folder, model.SerializeToString())


def not_a_number(folder: Path) -> None:
    model = load_graph(folder)
    for tensor in model.graph.initializer:
        if tensor.name == "epsilon":
            tensor.raw_data = np.array(np.nan, np.float32).tobytes()
    rewrite_graph(folder, model.SerializeToString())


def shuffled_head_ids(folder: Path) -> None:
    data = (folder / "head_ids.bin").read_bytes()
    data = data[4:] + data[:4]
    (folder / "head_ids.bin").write_bytes(data)
    file = {"name": "head_ids.bin", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite_manifest(folder, head_ids=file)


def a_name_that_leads_out(folder: Path) -> None:
    document = json.loads((folder / "draft.json").read_text())
    document["head_ids"]["name"] = "../head_ids.bin"
    (folder / "draft.json").write_text(json.dumps(document))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file cut off": (cut, "draft.int8.onnx has .* bytes, not the"),
    "a flipped bit": (flip_a_byte, "draft.int8.onnx is damaged"),
    "no graph": (lambda folder: [file.unlink() for file in folder.glob("*.onnx")], "draft.int8.onnx"),
    "no head ids": (lambda folder: (folder / "head_ids.bin").unlink(), "head_ids.bin"),
    "no manifest": (lambda folder: (folder / "draft.json").unlink(), "not a draft model for --runtime onnx"),
    "a manifest that is not JSON": (
        lambda folder: (folder / "draft.json").write_text("{"), "not a draft model for --runtime onnx",
    ),
    "an endless manifest": (lambda folder: rewrite_manifest(folder, padding="x" * 70_000), "runtime onnx|more than"),
    "a newer format": (lambda folder: rewrite_manifest(folder, format=2), "format 2"),
    "a graph that is none": (lambda folder: rewrite_graph(folder, b"x" * 999), "no execution provider runs it"),
    "an empty graph": (lambda folder: rewrite_graph(folder, helper.make_model(
        helper.make_graph([], "g", [], []), ir_version=8).SerializeToString()), "no execution provider runs it"),
    "a graph of another target": (another_graph, "not that of draft.json: .* differs"),
    "an output of another shape": (an_output_of_another_shape, "no execution provider runs it"),
    "weights in another file": (weights_in_another_file, "draft.int8.onnx refers to other files"),
    "logits that are no numbers": (not_a_number, "not numbers"),
    "more layers than the graph": (lambda folder: rewrite_manifest(folder, layers=900), "draft.json: .* differs"),
    "absurd layers": (lambda folder: rewrite_manifest(folder, layers=1 << 40), "draft.json"),
    "no layers": (lambda folder: rewrite_manifest(folder, layers=0), "draft.json"),
    "absurd vocabulary": (lambda folder: rewrite_manifest(folder, vocab_size=1 << 40), "draft.json"),
    "other columns": (lambda folder: rewrite_manifest(folder, columns=96), "head_ids.bin does not hold 96"),
    "shuffled head ids": (shuffled_head_ids, "ascending token ids"),
    "a name that leads out": (a_name_that_leads_out, "draft.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_is_one_line_and_exit_code_1(
    name: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, message = BAD[name]
    folder = tmp_path / "bad"
    shutil.copytree(tiny, folder)
    damage(folder)
    asked = settings(folder, runtime="onnx", provider="cpu", polite=False)
    with pytest.raises(DrafterUnavailable, match=message):
        load_drafters(asked)
    monkeypatch.setattr(agent, "configure_logging", lambda *_, **__: None)
    with pytest.raises(SystemExit) as ended:
        agent.main(asked)
    line = str(ended.value.code)
    assert line.startswith("edgedraft attach: cannot draft with")
    assert "\n" not in line


def test_the_runtime_follows_the_format(tiny: Path, target: Path, tmp_path: Path) -> None:
    assert load_drafters(settings(tiny)).description == f"{target.name} on cpu in int8 by ONNX Runtime, prompt lookup"
    for folder, runtime, message in (
        (tiny, "torch", "for onnx"),
        (tiny, "gguf", "for onnx"),
        (target, "onnx", "for torch; `edgedraft draft export` writes a folder"),
        (tmp_path / "nowhere", "onnx", "`edgedraft draft export`"),
    ):
        with pytest.raises(DrafterUnavailable, match=message):
            load_drafters(settings(folder, runtime=runtime))


def test_memory_bounds_the_cache(tiny: Path) -> None:
    weights = (tiny / "draft.int8.onnx").stat().st_size
    token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, numbers, bytes
    drafter = load_drafters(settings(tiny, max_memory=(weights + 300.5 * token) / 1e9)).new_drafter(VOCAB)
    drafter.open(1)
    assert drafter.propose([DraftRequest(1, [1] * 300, 300, 0, Sampling())])[0].complete is False
    assert drafter.propose([DraftRequest(1, [1] * 301, 301, 0, Sampling())])[0].complete is True
    with pytest.raises(DrafterUnavailable, match="--max-memory allows"):
        load_drafters(settings(tiny, max_memory=(weights + 100 * token) / 1e9))


def test_a_folder_with_one_variant_runs_it_everywhere(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "one")
    (tmp_path / "one" / "draft.int8.onnx").unlink()
    assert load_model(tmp_path / "one", "auto", 1).variant == "fp16", "a manifest may name what was not fetched"
    document = json.loads((tiny / "draft.json").read_text())
    rewrite_manifest(tmp_path / "one", variants={"fp16": document["variants"]["fp16"]})
    assert load_model(tmp_path / "one", "auto", 1).variant == "fp16"


def test_a_provider_that_is_not_installed_is_said(tiny: Path) -> None:
    with pytest.raises(DrafterUnavailable, match=r"execution provider qnn is not installed here; installed: .*cpu"):
        load_drafters(settings(tiny, provider="qnn"))


def test_a_provider_whose_library_does_not_load_is_skipped_with_one_line(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken_plugin.py").write_text("def get_library_path():\n    return '/nowhere/libplugin.so'\n")
    monkeypatch.syspath_prepend(tmp_path)
    broken = Provider("qnn", "QNNExecutionProvider", "broken_plugin")
    monkeypatch.setattr(providers, "PROVIDERS", (broken, providers.CPU))
    assert load_model(tiny, "auto", 1).device.description == "cpu"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "qnn" in caplog.text
    with pytest.raises(ValueError, match="qnn is not installed"):
        load_model(tiny, "qnn", 1)
    sys.modules.pop("broken_plugin")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_run_the_graph_is_skipped_with_one_line(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """ONNX Runtime knows CUDA by name here, but has no libraries for it."""
    missing = ProviderDevice(Provider("cuda", "CUDAExecutionProvider"), "gpu")
    cpu = ProviderDevice(providers.CPU, "cpu")
    devices = {"cuda": [missing], "cpu": [cpu]}
    monkeypatch.setattr(providers, "_devices_of", lambda provider: devices.get(provider.name, []))
    assert load_model(tiny, "auto", 1).device.description == "cpu"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cuda on gpu is skipped" in caplog.text
    with pytest.raises(ValueError, match="no execution provider runs it: cuda on gpu"):
        load_model(tiny, "cuda", 1)


def test_openvino_on_the_cpu_computes_the_same(exported: Path, text: list[int]) -> None:
    pytest.importorskip("onnxruntime_ep_openvino", reason="158 MB: pip install onnxruntime-ep-openvino")
    openvino = load_model(exported, "openvino", 1)
    assert openvino.device.provider.name == "openvino"
    found, expected = (chain_logits(model, text) for model in (openvino, load_model(exported, "cpu", 1)))
    assert (found.argmax(-1) == expected.argmax(-1)).mean() >= 0.95
