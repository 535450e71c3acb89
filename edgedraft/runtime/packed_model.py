"""A transformers causal LM over a paged KV cache: rows of many sequences, trees among them, in one packed forward.

The model's own code runs unchanged: the forward is a batch of one whose rows belong to different sequences, and only
the attention (paged_attention.py) knows which rows see which. Verifier and agent both stand on this file; the cache's
books are kv.py's. It decides nothing: what goes into a forward, which rows stay and what their logits mean is the
caller's.

The first forward of each layer tells the shapes of its keys and values, so no model's config is guessed at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from transformers import PreTrainedModel

from edgedraft.runtime.attention import ATTENTION, PackedBatch, SequenceSpan, UnsupportedModel, grouped, part_of
from edgedraft.runtime.block_manager import BlockManager, BlockTable
from edgedraft.runtime.device import limit_primitive_cache
from edgedraft.runtime.packed_linear import pack_linears


@dataclass(frozen=True)
class SequenceRows:
    """One sequence's rows of a packed forward.

    parents[i] is the row that row i follows, -1 the sequence's last token; None makes them a chain. `wanted` are the
    rows whose logits are asked for.
    """

    blocks: BlockTable
    tokens: Sequence[int]
    parents: Sequence[int] | None = None
    logit_rows: Sequence[int] = ()


class PackedModel:
    """A causal LM whose forwards are packed. Not safe for use from two threads at once."""

    def __init__(self, model: PreTrainedModel, kv_tokens: int, exact: bool = True) -> None:
        """Takes over `model`, which must be loaded with attention `sdpa` or `eager`.

        On a CPU its linear layers are packed, and one that need not be `exact`, a draft, may be rounded
        (packed_linear.py).

        Raises UnsupportedModel when its packed logits differ from its own.
        """
        limit_primitive_cache()
        self.model = model.eval()
        self.device, self.dtype = model.device, model.dtype
        self.block_manager = BlockManager(kv_tokens, self.dtype, self.device)
        self._check()
        pack_linears(self.model, exact)

    def new_block_table(self, salt: str = "") -> BlockTable:
        return BlockTable(self.block_manager, salt)

    @torch.inference_mode()
    def forward(self, jobs: Sequence[SequenceRows]) -> torch.Tensor:
        """Logits [wanted rows of all jobs, in order, vocab]. Each job's rows then lie beyond its sequence's length.

        Raises OutOfBlocks before anything is computed.
        """
        for job in jobs:
            job.blocks.reserve_slots(len(job.tokens))
        sizes = [(len(job.tokens), job.blocks.length + len(job.tokens)) for job in jobs]
        groups = grouped(sizes, bounded=self.device.type == "cpu")
        spans: dict[int, SequenceSpan] = {}
        tokens: list[int] = []
        slots: list[int] = []
        for i in chain.from_iterable(groups):
            job = jobs[i]
            spans[i] = _span(job, start=len(tokens))
            slots.extend(job.blocks.slots(job.blocks.length, job.blocks.length + len(job.tokens)))
            tokens.extend(job.tokens)
        wanted = [spans[i].start + row for i, job in enumerate(jobs) for row in job.logit_rows]
        positions = torch.cat([span.length + span.depth for span in spans.values()])
        parts = [part_of(self.block_manager, [spans[i] for i in group]) for group in groups]
        return self.model(
            input_ids=torch.tensor([tokens], device=self.device),
            position_ids=positions[None].to(self.device),
            use_cache=False,
            logits_to_keep=torch.tensor(wanted, dtype=torch.int64, device=self.device),
            packed=PackedBatch(self.block_manager, torch.tensor(slots, device=self.device), parts),
        ).logits[0]

    def _check(self) -> None:
        """The packed model must say what the plain one says, also when the context arrives in two parts."""
        ids = [(7 * i + 3) % self.model.config.get_text_config().vocab_size for i in range(12)]
        with torch.inference_mode():
            plain = self.model(input_ids=torch.tensor([ids], device=self.device), use_cache=False).logits[0, -1]
        self.model.set_attn_implementation(ATTENTION)
        sequence = self.new_block_table()
        try:
            self.forward([SequenceRows(sequence, ids[:8], logit_rows=[7])])
            sequence.keep_accepted(range(8))
            packed = self.forward([SequenceRows(sequence, ids[8:], logit_rows=[3])])[0]
        except (TypeError, KeyError, RuntimeError) as error:
            raise UnsupportedModel(f"{type(self.model).__name__} does not run packed: {error}") from error
        finally:
            sequence.truncate(0)
        spread = plain.float().std().item() or 1.0
        differs = (plain.float() - packed.float()).abs().max().item() > 0.25 * spread
        if differs or self.block_manager.num_layers < self.model.config.get_text_config().num_hidden_layers:
            raise UnsupportedModel(f"{type(self.model).__name__} keeps state that a paged KV cache cannot hold")


def _span(job: SequenceRows, start: int) -> SequenceSpan:
    """Where a job's rows lie and whom they see, when the job's first row is row `start` of the forward."""
    rows, length = len(job.tokens), job.blocks.length
    depth, mask = torch.arange(rows), None
    if job.parents is not None and list(job.parents) != list(range(-1, rows - 1)):
        depth, mask = torch.zeros(rows, dtype=torch.int64), torch.eye(rows, dtype=torch.bool)
        for row, parent in enumerate(job.parents):
            if parent >= 0:
                mask[row] |= mask[parent]
                depth[row] = depth[parent] + 1
    return SequenceSpan(start, start + rows, length, job.blocks.blocks(rows), depth, mask)
