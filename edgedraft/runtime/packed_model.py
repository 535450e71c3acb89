"""A transformers causal LM over a paged KV cache: one packed forward over rows of many sequences, draft trees included.

The model's own code runs unchanged. The forward is a batch of one whose rows belong to different sequences; only the
attention (attention.py) knows which rows attend to which keys. Verifier and agent both use this module. It decides
nothing: which rows a forward has, which of them are accepted and what their logits mean is up to the caller.

The shapes of a layer's KV cache are taken from its first forward, so no model config has to be interpreted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from edgedraft.runtime.attention import ATTENTION, PackedBatch, UnsupportedModel
from edgedraft.runtime.attention_check import LARGEST_DIFFERENCE, LayerShapes, compare_layers
from edgedraft.runtime.attention_groups import SequenceSpan, group_sequences, make_attention_group
from edgedraft.runtime.block_manager import BlockManager, BlockTable
from edgedraft.runtime.blocks import tree_paths
from edgedraft.runtime.device import limit_primitive_cache
from edgedraft.runtime.packed_linear import pack_linears
from edgedraft.runtime.paged_attention import check_available, make_paged_group

# The forward of a packed model may differ from the plain one's by this many standard deviations of its logits.
MAX_LOGIT_DIFFERENCE = 0.25

Attention = Literal["gathered", "paged"]  # attention_groups.py or paged_attention.py


@dataclass(frozen=True)
class SequenceRows:
    """One sequence's rows of a packed forward.

    parents[i] is the row that row i follows, -1 for the sequence's last accepted token; None means that the rows are a
    chain. Where `parents` is longer than `tokens`, its first rows are kept ones, which earlier forwards left in the KV
    cache (BlockTable.keep_rows). logit_rows are the rows whose logits are returned, 0 being that of tokens[0].
    """

    block_table: BlockTable
    tokens: Sequence[int]
    parents: Sequence[int] | None = None
    logit_rows: Sequence[int] = ()

    @property
    def num_slots(self) -> int:
        """Slots after the accepted tokens: those of kept and of new rows."""
        return len(self.tokens) if self.parents is None else len(self.parents)


class PackedModel:
    """A causal LM whose forwards are packed. Not thread-safe."""

    def __init__(
        self, model: PreTrainedModel, kv_tokens: int, exact: bool = True, attention: Attention = "gathered"
    ) -> None:
        """Takes over `model`, loaded with attention `sdpa` or `eager`. `kv_tokens` is the KV cache's capacity.

        On a CPU the linear layers are packed; where the model need not be `exact` (a draft model), they may be rounded
        to int8 (packed_linear.py).

        Raises UnsupportedModel when the packed logits differ from the model's own, or paged attention from gathered;
        ValueError where paged attention cannot run.
        """
        limit_primitive_cache()
        self.model = model.eval()
        self.device, self.dtype = model.device, model.dtype
        self.block_manager = BlockManager(kv_tokens, self.dtype, self.device)
        self._paged = attention == "paged"
        self._make_group = make_paged_group if self._paged else make_attention_group
        if self._paged:
            check_available(self.device)
        self._use_paged_attention()
        if self._paged:
            self._check_paged_attention()
        pack_linears(self.model, exact)

    def new_block_table(self, salt: str = "") -> BlockTable:
        return BlockTable(self.block_manager, salt)

    @torch.inference_mode()
    def forward(self, sequences: Sequence[SequenceRows]) -> torch.Tensor:
        """Logits [n, vocab] of the logit_rows of all sequences, in order.

        The rows' keys and values are written after each sequence's accepted tokens and kept rows; BlockTable.keep_rows
        tells which of them stay. Raises OutOfBlocks before anything is computed.
        """
        return self.model(**self.pack(sequences)).logits[0]

    def pack(self, sequences: Sequence[SequenceRows]) -> dict[str, Any]:
        """The model's arguments for one forward of `sequences`, with their slots reserved. Raises OutOfBlocks."""
        for rows in sequences:
            rows.block_table.reserve_slots(rows.num_slots)
        sizes = [(len(rows.tokens), rows.block_table.length + rows.num_slots) for rows in sequences]
        groups = [list(range(len(sizes)))] if self._paged else group_sequences(sizes, self.device.type == "cpu")
        spans: dict[int, SequenceSpan] = {}
        tokens: list[int] = []
        slot_mapping: list[int] = []
        for i in chain.from_iterable(groups):
            rows = sequences[i]
            span = spans[i] = _make_span(rows, start=len(tokens))
            slot_mapping.extend(rows.block_table.slot_mapping(span.num_keys - span.num_rows, span.num_keys))
            tokens.extend(rows.tokens)
        logit_rows = [spans[i].start + row for i, rows in enumerate(sequences) for row in rows.logit_rows]
        positions = torch.cat([span.positions for span in spans.values()])
        batch = PackedBatch(
            self.block_manager,
            torch.tensor(slot_mapping, device=self.device),
            [self._make_group(self.block_manager, [spans[i] for i in group]) for group in groups],
        )
        return {
            "input_ids": torch.tensor([tokens], device=self.device),
            "position_ids": positions[None].to(self.device),
            "use_cache": False,
            "logits_to_keep": torch.tensor(logit_rows, dtype=torch.int64, device=self.device),
            "packed": batch,
        }

    def _use_paged_attention(self) -> None:
        """Switch the model to paged attention and compare a prompt's last logits with those from before.

        The prompt is computed in two chunks, so that the second one depends on the KV cache.
        """
        config = self.model.config.get_text_config()
        ids = [(7 * i + 3) % config.vocab_size for i in range(12)]
        with torch.inference_mode():
            plain = self.model(input_ids=torch.tensor([ids], device=self.device), use_cache=False).logits[0, -1]
        self.model.set_attn_implementation(ATTENTION)
        block_table = self.new_block_table()
        try:
            self.forward([SequenceRows(block_table, ids[:8], logit_rows=[7])])
            block_table.keep_accepted(range(8))
            packed = self.forward([SequenceRows(block_table, ids[8:], logit_rows=[3])])[0]
        except (TypeError, KeyError, RuntimeError) as error:
            raise UnsupportedModel(f"{type(self.model).__name__} does not run packed: {error}") from error
        finally:
            block_table.truncate(0)
        deviation = plain.float().std().item() or 1.0
        differs = (plain.float() - packed.float()).abs().max().item() > MAX_LOGIT_DIFFERENCE * deviation
        if differs or self.block_manager.num_layers < config.num_hidden_layers:
            raise UnsupportedModel(f"{type(self.model).__name__} keeps state that a paged KV cache cannot hold")

    def _check_paged_attention(self) -> None:
        """Compare the kernel with gathered attention at the shapes of this model's layers."""
        shapes = LayerShapes()
        self._make_group = shapes.make_group
        block_table = self.new_block_table()
        self.forward([SequenceRows(block_table, [0])])
        block_table.truncate(0)
        self._make_group = make_paged_group
        difference = compare_layers(shapes.seen, self.dtype, self.device)
        if difference > LARGEST_DIFFERENCE[self.dtype]:
            raise UnsupportedModel(f"paged attention differs from gathered by {difference:.2g} on {self.device}")


def _make_span(rows: SequenceRows, start: int) -> SequenceSpan:
    """The span of `rows` when the first of them is row `start` of the batch."""
    num_rows, num_slots, num_cached = len(rows.tokens), rows.num_slots, rows.block_table.length
    stop, blocks = start + num_rows, rows.block_table.blocks(num_slots)
    if rows.parents is None or list(rows.parents) == list(range(-1, num_slots - 1)):
        return SequenceSpan(start, stop, num_cached + num_slots - num_rows, blocks, torch.arange(num_rows), None)
    depth, mask = tree_paths(rows.parents)
    return SequenceSpan(
        start, stop, num_cached, blocks, torch.from_numpy(depth), torch.from_numpy(mask[num_slots - num_rows :])
    )
