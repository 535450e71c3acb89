"""The storage of samples: the target's conversations and labels, in safetensors shards.

The labels of a generated token are the target's most likely tokens there and their log-probabilities at temperature 1,
whichever token was sampled. This module does not generate (decode.py does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from edge_agent.distill.prompts import KINDS
from edgedraft.private_files import narrow

HELD_OUT = "held-out.safetensors"  # answers to prompts that prompts.py holds out
WRITTEN = "written.safetensors"  # answers to prompts that were written by hand


@dataclass(frozen=True, slots=True)
class Sample:
    """A finished conversation.

    `ids` int32 [tokens]; `positions` int32 [labels], the indices in `ids` of the labelled tokens; `top_ids` int32 and
    `top_logps` float16, both [labels, top_k], descending.
    """

    kind: str
    ids: torch.Tensor
    positions: torch.Tensor
    top_ids: torch.Tensor
    top_logps: torch.Tensor


def save_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Write a shard atomically."""
    tensors = {
        "kinds": torch.tensor([KINDS.index(s.kind) for s in samples], dtype=torch.int8),
        "lengths": torch.tensor([len(s.ids) for s in samples]),
        "labels": torch.tensor([len(s.positions) for s in samples]),
        "ids": torch.cat([s.ids for s in samples]),
        "positions": torch.cat([s.positions for s in samples]),
        "top_ids": torch.cat([s.top_ids for s in samples]),
        "top_logps": torch.cat([s.top_logps for s in samples]),
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    narrow(partial)
    partial.replace(path)


def load_samples(path: Path) -> list[Sample]:
    """Read a shard."""
    tensors = load_file(path)
    ids = tensors["ids"].split(tensors["lengths"].tolist())
    counts = tensors["labels"].tolist()
    columns = [tensors[name].split(counts) for name in ("positions", "top_ids", "top_logps")]
    kinds = [KINDS[i] for i in tensors["kinds"].tolist()]
    return [Sample(*row) for row in zip(kinds, ids, *columns, strict=True)]


def shards(folder: Path) -> list[Path]:
    """The training shards in a folder, oldest first."""
    return sorted(folder.glob("shard-*.safetensors"))
