"""The student model: some layers of the target, its embeddings (shared and frozen), and a head cut to frequent tokens.

This module builds the student and chooses the tokens of its head; it does not train.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from transformers import PreTrainedModel

from edge_agent.distill.samples import Sample
from edge_agent.drafters.pytorch.draft_model import embedding_name, empty_student, student_config


def default_layers(count: int) -> tuple[int, ...]:
    """The layers to start from in a target of `count` layers: the first five, one in the middle, and the last two."""
    return tuple(sorted({i for i in (0, 1, 2, 3, 4, count // 2 + 1, count - 2, count - 1) if 0 <= i < count}))


def choose_head(samples: Iterable[Sample], vocab_size: int, size: int, always: Iterable[int]) -> torch.Tensor:
    """The `size` token ids that the target is most likely to emit, int64 ascending, including those in `always`.

    A token's weight is the probability that the target gave it, plus a share of its uses in the text, which answers
    repeat. Ties go to the lowest ids: byte-pair merges are numbered by frequency.
    """
    weight = torch.zeros(vocab_size, dtype=torch.float64)
    for sample in samples:
        weight.index_add_(0, sample.top_ids.flatten().long(), sample.top_logps.flatten().double().exp())
        weight.index_add_(0, sample.ids.long(), torch.full((len(sample.ids),), 0.1, dtype=torch.float64))
    weight -= torch.arange(vocab_size, dtype=torch.float64) * 1e-12
    weight[torch.tensor(sorted(set(always)), dtype=torch.long)] = torch.inf
    return weight.topk(min(size, vocab_size)).indices.sort().values


def make_student(target: PreTrainedModel, layers: Sequence[int], head_ids: torch.Tensor) -> PreTrainedModel:
    """A student in float32 that starts from the target's weights."""
    student = empty_student(student_config(target.config, layers), len(head_ids), torch.float32)
    prefix = _layers_prefix(target)
    source = target.state_dict()
    head = target.get_output_embeddings()
    assert isinstance(head, torch.nn.Linear)
    cut_name = next(name for name, module in student.named_modules() if module is student.get_output_embeddings())
    state = {}
    for name in student.state_dict():
        origin = name
        if name.startswith(prefix):
            index, _, rest = name[len(prefix) :].partition(".")
            origin = f"{prefix}{layers[int(index)]}.{rest}"
        cut = name == f"{cut_name}.weight"
        tensor = head.weight[head_ids.to(head.weight.device)] if cut else source[origin]
        state[name] = tensor.detach().float().cpu().clone()
    student.load_state_dict(state, assign=True)
    student.get_parameter(embedding_name(student)).requires_grad_(False)
    return student


def trained_state(student: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The part of the state dict that training changes: everything but the target's embeddings."""
    shared = embedding_name(student)
    return {name: tensor.detach() for name, tensor in student.state_dict().items() if name != shared}


def _layers_prefix(model: PreTrainedModel) -> str:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return f"{name}."
    raise ValueError(f"{type(model).__name__} has no list of {model.config.num_hidden_layers} layers")
