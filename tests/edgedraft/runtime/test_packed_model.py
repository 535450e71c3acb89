"""Packed forwards give the plain model's logits, row for row, and the KV cache loses no block."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from edgedraft.runtime import attention_groups
from edgedraft.runtime.block_manager import BLOCK_SIZE, BlockManager, BlockTable, OutOfBlocks
from edgedraft.runtime.packed_model import PackedModel, SequenceRows, UnsupportedModel
from tests.support.tiny_llama import tiny_llama
from tests.support.triton_interpreter import runs_interpreted

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.4,
}


def make(kind: str) -> PreTrainedModel:
    torch.manual_seed(1)
    match kind:
        case "llama":
            return tiny_llama(1, **SHAPE)
        case "qwen3":
            return Qwen3ForCausalLM(Qwen3Config(**SHAPE, num_key_value_heads=1, head_dim=12))
        case "gpt-neox":
            return GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE))
        case "mistral":
            return MistralForCausalLM(MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=6))
    raise ValueError(kind)


@torch.inference_mode()
def plain(kind: str, text: list[int]) -> torch.Tensor:
    return make(kind).eval()(torch.tensor([text])).logits[0]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.fixture(params=["single", "padded", pytest.param("paged", marks=runs_interpreted)])
def pack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], PackedModel]:
    """Makes a packed model of a kind that attends in one of the ways that there are."""
    monkeypatch.setattr(attention_groups, "MAX_PADDING_ON_CPU", 0.0 if request.param == "single" else 99.0)
    attention = "paged" if request.param == "paged" else "gathered"
    return lambda kind: PackedModel(make(kind), 256, attention=attention)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt-neox", "mistral"])
def test_logits_equal_the_plain_models_with_chunks_trees_and_other_sequences(
    kind: str, pack: Callable[[str], PackedModel]
) -> None:
    model = pack(kind)
    text, other = [(7 * i + 2) % 61 for i in range(30)], [(5 * i + 1) % 61 for i in range(21)]
    truth, other_truth = plain(kind, text), plain(kind, other)
    mine, theirs = model.new_block_table(), model.new_block_table()

    rows = model.forward(
        [SequenceRows(mine, text[:13], logit_rows=range(13)), SequenceRows(theirs, other[:20], logit_rows=[19])]
    )
    close(rows[:13], truth[:13])
    close(rows[13], other_truth[19])
    mine.keep_accepted(range(13))
    theirs.keep_accepted(range(20))

    # text[13] with a wrong child (row 1), the right one (row 2), its wrong and right children (rows 3, 4)
    tree = SequenceRows(mine, [text[13], 60, text[14], 59, text[15]], [-1, 0, 0, 2, 2], logit_rows=[0, 2, 4])
    rows = model.forward([tree, SequenceRows(theirs, other[20:], logit_rows=[0])])
    close(rows[:3], truth[13:16])
    close(rows[3], other_truth[20])
    mine.keep_accepted([0, 2, 4])

    rows = model.forward([SequenceRows(mine, text[16:], logit_rows=range(14))])
    close(rows, truth[16:])


@pytest.mark.parametrize("kind", ["llama", "gpt-neox", "mistral"])
def test_kept_rows_of_a_tree_serve_all_of_its_branches(kind: str, pack: Callable[[str], PackedModel]) -> None:
    model = pack(kind)
    text, other = [(7 * i + 2) % 61 for i in range(14)], [(5 * i + 1) % 61 for i in range(9)]
    mine, theirs = model.new_block_table(), model.new_block_table()
    model.forward([SequenceRows(mine, text), SequenceRows(theirs, other[:7])])
    mine.keep_accepted(range(14))
    theirs.keep_accepted(range(7))

    # 10 has the children 20 and 30; 21 and 22 follow 20, 31 follows 30.
    model.forward([SequenceRows(mine, [10, 20, 30], [-1, 0, 0])])
    mine.keep_rows([], [0, 1, 2])
    tree = SequenceRows(mine, [21, 31, 22], [-1, 0, 0, 1, 2, 1], logit_rows=range(3))
    rows = model.forward([tree, SequenceRows(theirs, other[7:], logit_rows=[1])])
    close(rows[0], plain(kind, [*text, 10, 20, 21])[-1])
    close(rows[1], plain(kind, [*text, 10, 30, 31])[-1])
    close(rows[2], plain(kind, [*text, 10, 20, 22])[-1])
    close(rows[3], plain(kind, other)[-1])

    # 10 and 20 are accepted; 21 and 22 are kept behind them, and 22 is run again.
    mine.keep_rows([0, 1], [3, 5])
    assert mine.length == 16
    rows = model.forward([SequenceRows(mine, [23, 24, 22], [-1, -1, 1, 0, -1], logit_rows=[2, 1, 0])])
    close(rows[0], plain(kind, [*text, 10, 20, 22])[-1])
    close(rows[1], plain(kind, [*text, 10, 20, 21, 24])[-1])
    close(rows[2], plain(kind, [*text, 10, 20, 22, 23])[-1])


def test_truncating_drops_exactly_the_last_tokens() -> None:
    model = PackedModel(make("llama"), 256)
    text = [(7 * i + 2) % 61 for i in range(20)]
    sequence = model.new_block_table()
    model.forward([SequenceRows(sequence, [*text[:12], 1, 2, 3])])
    sequence.keep_accepted(range(15))
    sequence.truncate(12)
    close(model.forward([SequenceRows(sequence, text[12:], logit_rows=range(8))]), plain("llama", text)[12:])


def test_a_model_with_other_state_than_keys_and_values_is_unsupported() -> None:
    torch.manual_seed(1)
    config = MambaConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(UnsupportedModel, match="Mamba"):
        PackedModel(MambaForCausalLM(config), 64)


def test_graphs_need_paged_attention() -> None:
    with pytest.raises(ValueError, match="need paged attention"):
        PackedModel(make("llama"), 64, cuda_graphs=True)


def test_a_forward_without_free_blocks_allocates_nothing() -> None:
    model = PackedModel(make("llama"), 2 * BLOCK_SIZE)
    sequence = model.new_block_table()
    with pytest.raises(OutOfBlocks):
        model.forward([SequenceRows(sequence, [1] * (2 * BLOCK_SIZE + 1))])
    assert model.block_manager.num_free_tokens == 2 * BLOCK_SIZE


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 40)), max_size=60))
@settings(deadline=None, max_examples=100)
def test_no_block_is_lost_or_allocated_twice(moves: list[tuple[int, int, int]]) -> None:
    kv = BlockManager(8 * BLOCK_SIZE, torch.float32, torch.device("cpu"))
    sequences = [BlockTable(kv) for _ in range(4)]
    for which, rows, keep in moves:
        sequence = sequences[which]
        try:
            sequence.reserve_slots(rows)
        except OutOfBlocks:
            sequence.truncate(0)
        else:
            sequence.truncate(max(0, sequence.length + min(keep, rows) - keep // 3))
        held = [slot for other in sequences for slot in other.slot_mapping(0, other.length)]
        assert len(held) == len(set(held)), "two tokens in one slot"
    for sequence in sequences:
        sequence.truncate(0)
    assert kv.num_free_tokens == kv.num_tokens
