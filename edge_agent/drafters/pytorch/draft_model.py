"""Draft models on disk: the format of distilled drafts, and loading one as an ordinary transformers model.

A distilled draft (the "student" of a distillation) is a folder with draft.json and draft.safetensors. It holds a few
transformer layers and an output head cut to the most frequent tokens; its embeddings are the target's and are read
from there. It loads as a model of the target's class, so that attention implementations and caches that work for the
target work for it; only the width of its logits differs. Any other folder or hub name is loaded as a plain
transformers model.

This module neither makes drafts (distill/ does) nor drafts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

FORMAT = "edgedraft-draft/1"
SPEC_FILE = "draft.json"
WEIGHTS_FILE = "draft.safetensors"
CARD_FILE = "MODEL_CARD.md"
HEAD_IDS = "head_ids"
SCALE_SUFFIX = ".scale"
SHIPPED = Path(__file__).parents[2] / "drafts"


class DraftSpec(msgspec.Struct, frozen=True):
    """The contents of draft.json.

    `head` names the tensor with the target's token id of every row of the head; `tokenizer` is the fingerprint of the
    target's tokenizer (edgedraft/tokenizer.py).
    """

    target: str
    layers: tuple[int, ...]
    head: str
    head_size: int
    tokenizer: str
    training: dict[str, Any] = {}
    format: str = FORMAT


def shipped_draft(target_name: str) -> Path | None:
    """The folder of the draft that this package ships for a target, or None."""
    path = SHIPPED / target_name
    return path if target_name and (path / SPEC_FILE).is_file() else None


def read_spec(path: Path) -> DraftSpec:
    """Read a distilled draft's draft.json. Raises ValueError when its format is not FORMAT."""
    spec = msgspec.json.decode((path / SPEC_FILE).read_bytes(), type=DraftSpec)
    if spec.format != FORMAT:
        raise ValueError(f"{path}: format {spec.format!r} is not {FORMAT!r}, which is what this version reads")
    return spec


def load_draft(
    path: str | Path,
    target_path: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> tuple[PreTrainedModel, torch.Tensor | None]:
    """Load a draft by folder or hub name; returns the model in eval mode and head_ids [columns].

    head_ids are the target's token ids of the logit columns, in int64; None for a plain transformers model, whose
    columns are token ids. `target_path` (a folder or hub name) is needed for distilled drafts only, which take their
    embeddings from it. `dtype` defaults to float32. Raises ValueError when the draft does not fit its target.
    """
    import torch

    dtype = dtype or torch.float32
    folder = Path(path)
    if (folder / SPEC_FILE).is_file():
        if target_path is None:
            raise ValueError(f"{folder} shares its target's embeddings: the target's folder or name is needed")
        return _load_student(folder, str(target_path), dtype, device)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(path), dtype=dtype)
    return move_to(model, device).eval(), None


def _load_student(
    folder: Path, target: str, dtype: torch.dtype, device: torch.device | str
) -> tuple[PreTrainedModel, torch.Tensor]:
    from safetensors import safe_open
    from transformers import AutoConfig

    spec = read_spec(folder)
    config = student_config(AutoConfig.from_pretrained(target), spec.layers)
    model = empty_student(config, spec.head_size, dtype)
    state: dict[str, torch.Tensor] = {}
    with safe_open(folder / WEIGHTS_FILE, "pt") as file:
        names = set(file.keys())
        head_ids = file.get_tensor(spec.head).long()
        for name in names - {spec.head}:
            if name.endswith(SCALE_SUFFIX):
                continue
            tensor = file.get_tensor(name)
            if name + SCALE_SUFFIX in names:
                tensor = dequantise(tensor, file.get_tensor(name + SCALE_SUFFIX))
            state[name] = tensor.to(dtype)
    name = embedding_name(model)
    state[name] = read_tensor(target, name).to(dtype)
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    if missing or unexpected:
        raise ValueError(f"{folder} does not fit {target}: missing {missing}, unexpected {unexpected}")
    if len(head_ids) != spec.head_size or int(head_ids.max()) >= state[name].shape[0]:
        raise ValueError(f"{folder}: the head's ids do not fit {target}")
    return move_to(model, device).eval(), head_ids.to(device)


def student_config(config: PreTrainedConfig, layers: Sequence[int]) -> PreTrainedConfig:
    """The target's configuration, cut to the chosen layers. Raises ValueError when the target lacks one of them."""
    student = type(config).from_dict(config.to_dict())
    if not layers or max(layers) >= config.num_hidden_layers:
        raise ValueError(f"layers {list(layers)} are not layers of a model that has {config.num_hidden_layers}")
    # Per-layer lists, such as layer_types, follow their layers.
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == config.num_hidden_layers and name.endswith("_types"):
            setattr(student, name, [value[i] for i in layers])
    student.num_hidden_layers = len(layers)
    # The head is cut and trained, so it is no longer tied to the embeddings.
    student.tie_word_embeddings = False
    return student


def empty_student(config: PreTrainedConfig, head_size: int, dtype: torch.dtype) -> PreTrainedModel:
    """A model of the target's class with a head of `head_size` rows; its weights are not initialised.

    Raises ValueError when the class has no plain linear head.
    """
    from torch import nn
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Linear) or head.bias is not None:
            raise ValueError(f"{type(model).__name__} has no plain linear head to cut")
        model.set_output_embeddings(nn.Linear(head.in_features, head_size, bias=False, dtype=dtype))
    return model


def move_to(model: PreTrainedModel, device: torch.device | str) -> PreTrainedModel:
    """Move the model to a device. (transformers' own `to` has no signature that a type checker sees.)"""
    from torch import nn

    nn.Module.to(model, device)
    return model


def embedding_name(model: PreTrainedModel) -> str:
    """The name of the input embeddings' weight in the model's state dict."""
    weight = model.get_input_embeddings().weight
    return next(name for name, parameter in model.named_parameters() if parameter is weight)


def read_tensor(model: str, name: str) -> torch.Tensor:
    """Read one tensor of a saved model (folder or hub name). Raises FileNotFoundError when its file is missing."""
    from safetensors import safe_open
    from transformers.utils.hub import cached_file

    index = cached_file(model, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
    shard = "model.safetensors"
    if index is not None:
        shard = json.loads(Path(index).read_text())["weight_map"][name]
    path = cached_file(model, shard)
    if path is None:
        raise FileNotFoundError(f"{model} has no {shard}")
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)


def quantise(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise a matrix [rows, columns] symmetrically: int8 values and one float16 scale per row."""
    import torch

    rows = matrix.detach().float()
    scale = (rows.abs().amax(1) / 127).clamp_min(2**-24).half()
    # Rounded against the stored scale, so that its own rounding adds no error; subnormal scales stay above zero.
    values = torch.round(rows / scale.float()[:, None]).clamp(-127, 127)
    return values.to(torch.int8), scale


def dequantise(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The float32 matrix of what `quantise` returned."""
    return values.float() * scale.float()[:, None]
