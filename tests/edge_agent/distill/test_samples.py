"""Shards of samples: what is written is read back, and a shard appears complete or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edge_agent.distill import samples as samples_module
from edge_agent.distill.samples import Sample, load_samples, save_samples, shards


def sample(kind: str, tokens: int, labels: int) -> Sample:
    return Sample(
        kind,
        torch.arange(tokens, dtype=torch.int32),
        torch.arange(tokens - labels, tokens, dtype=torch.int32),
        torch.arange(labels * 2, dtype=torch.int32).view(labels, 2),
        -torch.arange(labels * 2, dtype=torch.float16).view(labels, 2),
    )


def test_a_shard_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = [sample("code", 5, 2), sample("chat", 9, 0), sample("maths", 4, 3)]
    save_samples(tmp_path / "shard-00000.safetensors", written)
    read = load_samples(tmp_path / "shard-00000.safetensors")
    assert [one.kind for one in read] == ["code", "chat", "maths"]
    for one, other in zip(read, written, strict=True):
        for name in ("ids", "positions", "top_ids", "top_logps"):
            assert torch.equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).dtype == getattr(other, name).dtype


def test_a_failed_write_leaves_the_old_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shard-00000.safetensors"
    save_samples(path, [sample("code", 5, 2)])

    def fail(tensors: object, partial: Path) -> None:
        partial.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(samples_module, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_samples(path, [sample("chat", 5, 2)])
    assert [one.kind for one in load_samples(path)] == ["code"]
    assert shards(tmp_path) == [path]


def test_shards_are_in_order_and_without_the_held_out_samples(tmp_path: Path) -> None:
    for name in ("shard-00001.safetensors", "held-out.safetensors", "shard-00000.safetensors", "shard-00002.partial"):
        (tmp_path / name).touch()
    assert [path.name for path in shards(tmp_path)] == ["shard-00000.safetensors", "shard-00001.safetensors"]
