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
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import PreTrainedModel

from edgedraft.runtime.attention import ATTENTION, PackedBatch, UnsupportedModel
from edgedraft.runtime.attention_check import LARGEST_DIFFERENCE, Layer, LayerShapes, compare_layers
from edgedraft.runtime.attention_groups import SequenceSpan, group_sequences, make_attention_group
from edgedraft.runtime.block_manager import BlockManager, BlockTable
from edgedraft.runtime.blocks import tree_paths
from edgedraft.runtime.device import limit_primitive_cache
from edgedraft.runtime.packed_linear import pack_linears
from edgedraft.runtime.paged_attention import make_paged_group

if TYPE_CHECKING:
    from edgedraft.runtime.static_forward import StaticForwards

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
        self,
        model: PreTrainedModel,
        kv_tokens: int,
        exact: bool = True,
        attention: Attention = "gathered",
        cuda_graphs: bool = False,
    ) -> None:
        """Takes over `model`, loaded with attention `sdpa` or `eager`. `kv_tokens` is the KV cache's capacity.

        On a CPU the linear layers are packed; where the model need not be `exact` (a draft model), they may be rounded
        to int8 (packed_linear.py). With `cuda_graphs`, which need paged attention, forwards of few rows are replayed.

        Raises UnsupportedModel when the packed logits differ from the model's own, paged attention from gathered, or
        replayed forwards from others. Paged attention must be available (paged_attention.check_available).
        """
        limit_primitive_cache()
        self.model = model.eval()
        self.device, self.dtype = model.device, model.dtype
        self.block_manager = BlockManager(kv_tokens, self.dtype, self.device, padding=cuda_graphs)
        self._paged = attention == "paged"
        self._make_group = make_paged_group if self._paged else make_attention_group
        self._static: StaticForwards | None = None
        self._use_paged_attention()
        layers = self._check_paged_attention() if self._paged else set()
        pack_linears(self.model, exact)
        if cuda_graphs:
            self._use_static_buffers(layers)

    def new_block_table(self, salt: str = "") -> BlockTable:
        return BlockTable(self.block_manager, salt)

    @torch.inference_mode()
    def forward(self, sequences: Sequence[SequenceRows]) -> torch.Tensor:
        """Logits [n, vocab] of the logit_rows of all sequences, in order.

        The rows' keys and values are written after each sequence's accepted tokens and kept rows; BlockTable.keep_rows
        tells which of them stay. Raises OutOfBlocks before anything is computed.
        """
        inputs = self.pack(sequences)
        logits = self._static.forward(inputs) if self._static else None
        return self.model(**inputs).logits[0] if logits is None else logits

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
        if _differ(plain, packed) or self.block_manager.num_layers < config.num_hidden_layers:
            raise UnsupportedModel(f"{type(self.model).__name__} keeps state that a paged KV cache cannot hold")

    def _check_paged_attention(self) -> set[Layer]:
        """Compare the kernel with gathered attention at the shapes of this model's layers, which are returned."""
        shapes = LayerShapes()
        self._make_group = shapes.make_group
        block_table = self.new_block_table()
        self.forward([SequenceRows(block_table, [0])])
        block_table.truncate(0)
        self._make_group = make_paged_group
        difference = compare_layers(shapes.seen, self.dtype, self.device)
        if difference > LARGEST_DIFFERENCE[self.dtype]:
            raise UnsupportedModel(f"paged attention differs from gathered by {difference:.2g} on {self.device}")
        return shapes.seen

    @torch.inference_mode()
    def _use_static_buffers(self, layers: set[Layer]) -> None:
        """Replay forwards of few rows from now on, after comparing some of each size with forwards that are not."""
        groups = {heads.group for heads, _ in layers}
        if len(groups) != 1:
            raise ValueError("CUDA graphs need paged attention, and as many heads per key head in every layer")
        from edgedraft.runtime.static_forward import ROW_COUNTS, StaticForwards

        try:
            static = StaticForwards(self.model, self.block_manager, groups.pop())
        except RuntimeError as error:
            raise UnsupportedModel(f"CUDA cannot capture {type(self.model).__name__}: {error}") from error
        vocab_size = self.model.config.get_text_config().vocab_size
        for count in ROW_COUNTS:
            block_table = self.new_block_table()
            for factor in (5, 11):  # the second forward has other tokens, positions, slots and keys than the first
                ids = [(factor * i + 3) % vocab_size for i in range(count)]
                rows = [SequenceRows(block_table, ids, logit_rows=range(count))]
                replayed = static.forward(self.pack(rows))
                if replayed is None or _differ(self.forward(rows), replayed):
                    raise UnsupportedModel(f"a replayed forward of {count} rows differs on {self.device}")
                block_table.keep_accepted(range(count))
            block_table.truncate(0)
        self._static = static


def _differ(expected: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether logits differ by more than rounding can make them."""
    deviation = expected.float().std().item() or 1.0
    return not (expected.float() - logits.float()).abs().max().item() <= MAX_LOGIT_DIFFERENCE * deviation


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
