"""Forwards from static buffers have the logits of plain ones, in Triton's interpreter, whatever was in them before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from edgedraft.runtime.packed_model import PackedModel, SequenceRows, UnsupportedModel
from tests.support.tiny_llama import VOCAB, plain_tiny_llama, tiny_llama
from tests.support.triton_interpreter import limit_static_forwards, runs_interpreted

pytestmark = runs_interpreted

# What CUDA cannot capture: a number read from a tensor, a shape that depends on one, and a tensor made of numbers.
HOST_READS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "lift_fresh"}


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For each forward since: the rows that its buffers hold, 0 where it was a plain call."""
    from edgedraft.runtime.static_forward import StaticForwards

    limit_static_forwards(monkeypatch)
    seen: list[int] = []
    forward = StaticForwards.forward

    def noting(self: StaticForwards, inputs: dict[str, Any]) -> torch.Tensor | None:
        logits = forward(self, inputs)
        rows = inputs["input_ids"].shape[1]
        seen.append(0 if logits is None else min(count for count in self._forwards if count >= rows))
        return logits

    monkeypatch.setattr(StaticForwards, "forward", noting)
    return seen


@torch.inference_mode()
def plain(text: list[int]) -> torch.Tensor:
    return plain_tiny_llama()(torch.tensor([text])).logits[0]


def close(logits: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_each_forward_depends_on_its_own_rows_alone(replays: list[int]) -> None:
    model = PackedModel(tiny_llama(), 512, attention="paged", cuda_graphs=True)
    replays.clear()
    text, other = [(7 * i + 2) % VOCAB for i in range(30)], [(5 * i + 1) % VOCAB for i in range(40)]
    mine, theirs = model.new_block_table(), model.new_block_table()

    # 22 rows, more than there are buffers for; the shorter forwards have tiles, splits and padding of all kinds.
    rows = model.forward([SequenceRows(mine, text[:21], logit_rows=[20]), SequenceRows(theirs, other[:1])])
    close(rows, plain(text[:21])[20:])
    mine.keep_accepted(range(21))
    theirs.keep_accepted([0])

    rows = model.forward(
        [SequenceRows(mine, text[21:22], logit_rows=[0]), SequenceRows(theirs, other[1:14], logit_rows=[0, 12])]
    )
    close(rows, torch.stack([plain(text)[21], plain(other)[1], plain(other)[13]]))
    mine.keep_accepted([0])
    theirs.keep_accepted(range(13))

    # text[22] with a wrong child, the right one, and children of that
    tree = SequenceRows(mine, [text[22], 3, text[23], 4, text[24]], [-1, 0, 0, 2, 2], logit_rows=[0, 2, 4])
    rows = model.forward([tree, SequenceRows(theirs, other[14:15], logit_rows=[0])])
    close(rows, torch.cat([plain(text)[22:25], plain(other)[14:15]]))
    mine.keep_accepted([0, 2, 4])
    theirs.keep_accepted([0])

    rows = model.forward([SequenceRows(theirs, other[15:16], logit_rows=[0])])
    close(rows, plain(other)[15:16])
    theirs.keep_accepted([0])
    rows = model.forward([SequenceRows(mine, text[25:27], logit_rows=[1])])
    close(rows, plain(text)[26:27])
    assert replays == [0, 16, 16, 4, 4]


def test_more_kept_rows_than_buffers_hold_are_computed_by_a_plain_call(replays: list[int]) -> None:
    model = PackedModel(tiny_llama(), 512, attention="paged", cuda_graphs=True)
    text = [(7 * i + 2) % VOCAB for i in range(14)]
    sequence = model.new_block_table()
    model.forward([SequenceRows(sequence, text)])
    sequence.keep_accepted(range(14))
    model.forward([SequenceRows(sequence, [10, 20, 30, 40], [-1, 0, 0, 0])])
    sequence.keep_rows([], [0, 1, 2, 3])
    replays.clear()
    rows = model.forward([SequenceRows(sequence, [21, 31], [-1, 0, 0, 0, 1, 2], logit_rows=[0, 1])])
    close(rows, torch.stack([plain([*text, 10, 20, 21])[-1], plain([*text, 10, 30, 31])[-1]]))
    assert replays == [0]


@pytest.mark.parametrize("buffer", ["_tokens", "_positions", "_slots"])
def test_a_forward_that_does_not_read_its_buffers_is_refused(
    buffer: str, replays: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the capture had taken a copy of one."""
    from edgedraft.runtime.static_forward import _StaticForward

    compute = _StaticForward._compute

    def from_a_copy(self: Any) -> torch.Tensor:
        copy = getattr(self, f"copy_of{buffer}", None)
        if copy is None:
            copy = getattr(self, buffer).clone()
            setattr(self, f"copy_of{buffer}", copy)
        getattr(self, buffer).copy_(copy)
        return compute(self)

    monkeypatch.setattr(_StaticForward, "_compute", from_a_copy)
    with pytest.raises(UnsupportedModel, match="a replayed forward of"):
        PackedModel(tiny_llama(), 512, attention="paged", cuda_graphs=True)
    assert replays


class _HostReads(TorchDispatchMode):
    """Notes the operations in HOST_READS."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().removeprefix("aten::") in HOST_READS:
            self.seen.add(func.name())
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(
    ("rope", "captured"),
    [({"rope_type": "default"}, True), ({"rope_type": "dynamic", "factor": 2.0}, False)],
    ids=["default", "dynamic"],
)
def test_a_forward_reads_no_number_back(rope: dict[str, Any], captured: bool, replays: list[int]) -> None:
    """Except for models that do so themselves, such as those that scale positions by the longest text."""
    llama = tiny_llama(rope_parameters={"rope_theta": 10000.0, **rope})
    model = PackedModel(llama, 512, attention="paged", cuda_graphs=True)
    assert replays
    assert model._static
    reads = _HostReads()
    with torch.inference_mode(), reads:
        model._static._forwards[4]._compute()
    assert bool(reads.seen) != captured, reads.seen
