"""Forwards of few rows from buffers that stay where they are, so that CUDA replays each as one graph of its kernels.

The rows of a forward are padded to one of ROW_COUNTS. All that changes from one forward to the next is copied into the
buffers of that count: tokens, positions, KV slots, and the tables of paged attention. Where there are no graphs, on a
CPU, the same buffers are computed from by an ordinary call: that is how tests exercise them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from edgedraft.runtime.attention import PackedBatch
from edgedraft.runtime.attention_groups import LayerInputs
from edgedraft.runtime.block_manager import BLOCK_SIZE, BlockManager
from edgedraft.runtime.paged_attention import SPLIT_KEYS, PagedSequences
from edgedraft.runtime.paged_kernel import KernelTables, attend_to_blocks, tile_size

ROW_COUNTS = (1, 2, 4, 8, 16, 32, 64)
MIN_SPLITS = 192  # for which a forward of one row has room; each further row has room for one more
NOTHING = -1  # fills unused entries of splits and merges: such a program has no rows and no keys
WARM_UP_CALLS = 3  # before a capture: kernels are compiled, libraries set up


class StaticForwards:
    """A model's forwards of up to 64 rows, each of ROW_COUNTS with its own buffers and graph."""

    def __init__(self, model: PreTrainedModel, block_manager: BlockManager, group: int) -> None:
        """`group` query heads share a key head, in every layer. `block_manager` has a block for padding rows.

        Raises RuntimeError where CUDA cannot capture the model's forward, because it waits for the device, say.
        """
        pool = torch.cuda.graph_pool_handle() if block_manager.device.type == "cuda" else None
        # The largest first: the others fit into the memory that it takes.
        self._forwards = {
            rows: _StaticForward(model, block_manager, group, rows, pool) for rows in reversed(ROW_COUNTS)
        }

    def forward(self, inputs: dict[str, Any]) -> torch.Tensor | None:
        """Logits for the arguments of PackedModel.pack, or None where they have too many rows, keys or kept rows."""
        rows = inputs["input_ids"].shape[1]
        count = next((count for count in ROW_COUNTS if count >= rows), None)
        return None if count is None else self._forwards[count].forward(inputs)


@dataclass(frozen=True)
class _StaticSequences:
    """The AttentionGroup of whatever the tables say at that moment."""

    tables: KernelTables

    def attend(self, layer: LayerInputs, window: int | None, scale: float | None) -> None:
        attend_to_blocks(layer.query, layer.keys, layer.values, layer.out, self.tables, window, scale)


class _StaticForward:
    """Forwards of up to `rows` rows."""

    def __init__(self, model: PreTrainedModel, block_manager: BlockManager, group: int, rows: int, pool: Any) -> None:
        self._model = model
        self._group = group
        self._padding_slot = block_manager.padding_slot
        device, splits = block_manager.device, MIN_SPLITS + rows

        def buffer(*shape: int, dtype: torch.dtype = torch.int32, fill: int = 0) -> torch.Tensor:
            return torch.full(shape, fill, dtype=dtype, device=device)

        self._tokens = buffer(1, rows, dtype=torch.int64)
        self._positions = buffer(1, rows, dtype=torch.int64)
        self._slots = buffer(rows, dtype=torch.int64, fill=self._padding_slot)
        self._tables = KernelTables(
            splits=buffer(splits, 10, fill=NOTHING),
            merges=buffer(rows, 4, fill=NOTHING),
            block_tables=buffer(splits * SPLIT_KEYS // BLOCK_SIZE),
            positions=buffer(rows),
            tree_masks=buffer(rows * rows, dtype=torch.uint8),
            tree_positions=buffer(rows),
            num_partials=splits,
            tile=tile_size(rows, group, block_manager.dtype),
        )
        self._batch = PackedBatch(block_manager, self._slots, [_StaticSequences(self._tables)])
        self._graph, self._logits = self._capture(pool, device) if device.type == "cuda" else (None, None)

    def forward(self, inputs: dict[str, Any]) -> torch.Tensor | None:
        """See StaticForwards."""
        batch: PackedBatch = inputs["packed"]
        (sequences,) = batch.groups
        assert isinstance(sequences, PagedSequences)
        tables = sequences.make_tables(self._group, self._tables.tile)
        contents = [
            (self._tokens[0], inputs["input_ids"][0], 0),
            (self._positions[0], inputs["position_ids"][0], 0),
            (self._slots, batch.slot_mapping, self._padding_slot),
            (self._tables.splits, tables.splits, NOTHING),
            (self._tables.merges, tables.merges, NOTHING),
            (self._tables.block_tables, tables.block_tables, None),
            (self._tables.positions, tables.positions, None),
            (self._tables.tree_masks, tables.tree_masks, None),
            (self._tables.tree_positions, tables.tree_positions, None),
        ]
        if any(len(content) > len(buffer) for buffer, content, _ in contents):
            return None
        for buffer, content, padding in contents:
            buffer[: len(content)].copy_(content)
            if padding is not None:
                buffer[len(content) :].fill_(padding)
        if self._graph is None:
            logits = self._compute()
        else:
            self._graph.replay()
            logits = self._logits
        assert logits is not None
        return logits[inputs["logits_to_keep"]]  # a copy: the next forward overwrites them

    def _compute(self) -> torch.Tensor:
        """Logits [rows, vocab] of all rows. Reads nothing but the buffers."""
        return self._model(
            input_ids=self._tokens, position_ids=self._positions, use_cache=False, packed=self._batch
        ).logits[0]

    def _capture(self, pool: Any, device: torch.device) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """The graph of a forward without sequences, and the logits that each replay writes."""
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                self._compute()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool):
            logits = self._compute()
        return graph, logits
