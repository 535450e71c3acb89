"""The kinds of devices that draft: what runs the draft model of an agent, as Hello.device names it.

A gateway keeps only the names that it knows, so that metrics and the ledger have few different ones.
"""

from __future__ import annotations

LOOKUP = "lookup"  # no draft model
OTHER = "other"  # a name that this version does not know, or none
DEVICES = frozenset(
    {
        LOOKUP,
        "torch cpu",
        "torch cuda",
        "torch mps",
        "gguf",
        "llama-server",
        "vllm",
        "sglang",
        "openai server",
        "onnx cpu",
        "onnx cuda",
        "onnx coreml",
        "onnx directml",
        "onnx nvtensorrtrtx",
        "onnx openvino",
        "onnx qnn",
        "browser wasm",
        "browser webgpu",
    }
)


def known_device(name: str) -> str:
    """`name` if it is in DEVICES, else OTHER."""
    return name if name in DEVICES else OTHER
