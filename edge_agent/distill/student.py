"""The child model: some layers of the target, its embeddings (shared, frozen), and a head cut to frequent tokens.

This file builds the child and chooses its head's tokens; it does not train.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from transformers import PreTrainedModel

from edge_agent.distill.samples import Sample
from edge_agent.drafters.draft_model import embedding_name, empty_student, student_config


def default_layers(count: int) -> tuple[int, ...]:
    """Where a model does most of what a draft needs: its first layers and its last two, with one from the middle."""
    return tuple(sorted({i for i in (0, 1, 2, 3, 4, count // 2 + 1, count - 2, count - 1) if 0 <= i < count}))


def choose_head(samples: Iterable[Sample], vocab_size: int, size: int, always: Iterable[int]) -> torch.Tensor:
    """The `size` token ids that the target is most likely to emit, ascending; `always` are among them.

    A token counts by the probability that the target gave it, and by its use in prompts, which answers repeat. Places
    left over go to the lowest ids: byte-pair merges are numbered by frequency.
    """
    weight = torch.zeros(vocab_size, dtype=torch.float64)
    for sample in samples:
        weight.index_add_(0, sample.top_ids.flatten().long(), sample.top_logps.flatten().double().exp())
        weight.index_add_(0, sample.ids.long(), torch.full((len(sample.ids),), 0.1, dtype=torch.float64))
    weight -= torch.arange(vocab_size, dtype=torch.float64) * 1e-12
    weight[torch.tensor(sorted(set(always)), dtype=torch.long)] = torch.inf
    return weight.topk(min(size, vocab_size)).indices.sort().values


def make_child(target: PreTrainedModel, layers: Sequence[int], head_ids: torch.Tensor) -> PreTrainedModel:
    """A child in float32 that starts from the target's weights."""
    child = empty_student(student_config(target.config, layers), len(head_ids), torch.float32)
    prefix = _layers_prefix(target)
    source = target.state_dict()
    head = target.get_output_embeddings()
    assert isinstance(head, torch.nn.Linear)
    cut_name = next(name for name, module in child.named_modules() if module is child.get_output_embeddings())
    state = {}
    for name in child.state_dict():
        origin = name
        if name.startswith(prefix):
            index, _, rest = name[len(prefix) :].partition(".")
            origin = f"{prefix}{layers[int(index)]}.{rest}"
        cut = name == f"{cut_name}.weight"
        tensor = head.weight[head_ids.to(head.weight.device)] if cut else source[origin]
        state[name] = tensor.detach().float().cpu().clone()
    child.load_state_dict(state, assign=True)
    child.get_parameter(embedding_name(child)).requires_grad_(False)
    return child


def learned_state(child: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What training changes: everything but the target's embeddings."""
    shared = embedding_name(child)
    return {name: tensor.detach() for name, tensor in child.state_dict().items() if name != shared}


def _layers_prefix(model: PreTrainedModel) -> str:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return f"{name}."
    raise ValueError(f"{type(model).__name__} has no list of {model.config.num_hidden_layers} layers")
