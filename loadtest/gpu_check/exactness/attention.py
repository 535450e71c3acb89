"""Paged attention and tree masks on the device against a plain definition, computed in float64 on the CPU.

The definition finds the keys of a row by walking up its parents, one key at a time: it shares no code with the masks,
block tables and kernels that it is compared with. What moves keys between slots is compared bit by bit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise, product
from types import SimpleNamespace

import numpy as np
import torch
from transformers import AttentionInterface

from edgedraft.runtime.attention import ATTENTION, PackedBatch
from edgedraft.runtime.attention_groups import SequenceSpan, group_sequences, make_attention_group
from edgedraft.runtime.block_manager import BLOCK_SIZE, BlockManager, BlockTable
from edgedraft.runtime.blocks import tree_paths
from loadtest.gpu_check.report import Section

TreePaths = Callable[[Sequence[int]], tuple[np.ndarray, np.ndarray]]

LARGEST_ERROR = {torch.float32: 1e-4, torch.bfloat16: 0.03}  # of outputs whose standard deviation is at most 1
LAYER = SimpleNamespace(layer_idx=0)
WINDOW = 24


@dataclass(frozen=True)
class Heads:
    query: int
    kv: int
    dim: int


@dataclass(frozen=True)
class Sequences:
    """Cached tokens, and the parents of the rows behind them, for each sequence; `kept` rows are computed before."""

    name: str
    cached: tuple[int, ...]
    parents: tuple[tuple[int, ...], ...]
    kept: int = 0
    window: int | None = None

    @property
    def slots(self) -> list[int]:
        """Of each sequence: its cached tokens and its rows."""
        return [cached + len(parents) for cached, parents in zip(self.cached, self.parents, strict=True)]

    @property
    def starts(self) -> list[int]:
        """The index of each sequence's first slot among those of all, and the number of all."""
        return [0, *accumulate(self.slots)]


def check_attention(section: Section, device: torch.device, tiny: bool, paths: TreePaths = tree_paths) -> None:
    """`paths` makes the depths and masks of trees."""
    shapes = [Heads(6, 2, 16)] if tiny else [Heads(9, 3, 64), Heads(40, 8, 128), Heads(16, 8, 128)]
    for heads, (dtype, largest) in product(shapes, LARGEST_ERROR.items()):
        suffix = f"{heads.query}/{heads.kv} heads of {heads.dim}, {str(dtype).removeprefix('torch.')}"
        for case in _cases(tiny):
            error = _attention_error(case, heads, dtype, device, paths)
            section.check(f"{case.name}, {suffix}", error <= largest, largest_error=error, allowed=largest)
    wrong = _count_wrong_moves(device)
    section.check("accepted and kept rows move, bits", wrong == 0, different=wrong)


def _cases(tiny: bool) -> list[Sequences]:
    rng = random.Random(3)
    longest = 40 if tiny else 3000
    cached = (0, 1, 5, 16, 33, longest)
    chains = tuple(tuple(range(-1, rows - 1)) for rows in (1, 7, 2, 16, 1, 4))
    trees = tuple(_random_tree(rows, rng) for rows in (2, 7, 24, 16, 3, 32))
    prompt = (tuple(range(-1, 79)),)
    return [
        Sequences("one row each", cached[1:], tuple((-1,) for _ in cached[1:])),
        Sequences("chains", cached, chains),
        Sequences("a prompt", (longest,), prompt),
        Sequences("trees", cached, trees),
        Sequences("one tree", (5,), trees[2:3]),
        Sequences("trees with kept rows", cached, trees, kept=1),
        Sequences("trees, sliding window", cached, trees, window=WINDOW),
    ]


def _random_tree(rows: int, rng: random.Random) -> tuple[int, ...]:
    """The root, which is the text's last token, and nodes below it."""
    return (-1, *(rng.randrange(row) for row in range(1, rows)))


def _attention_error(
    case: Sequences, heads: Heads, dtype: torch.dtype, device: torch.device, paths: TreePaths
) -> float:
    """The largest difference of any output."""
    noise = torch.Generator().manual_seed(7)
    keys, values = (_noise((case.starts[-1], heads.kv, heads.dim), noise, dtype) for _ in range(2))
    queries = _noise((case.starts[-1], heads.query, heads.dim), noise, dtype)
    order, attended = _attend(case, queries, keys, values, device, paths)
    expected = torch.full(queries.shape, torch.nan, dtype=torch.float64)
    for i, (start, stop) in enumerate(pairwise(case.starts)):
        visible = _visible_keys(case, i)
        rows = slice(stop - len(visible), stop)
        expected[rows] = _define_attention(
            queries[rows].double(), keys[start:stop].double(), values[start:stop].double(), visible
        )
    error = (attended.cpu().double() - expected[order]).abs()
    return float("inf") if error.isnan().any() else float(error.max())


@torch.inference_mode()
def _attend(
    case: Sequences,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    device: torch.device,
    paths: TreePaths,
) -> tuple[list[int], torch.Tensor]:
    """The outputs [rows, heads, dim] of a packed batch, and the index of each of its rows in `queries`.

    Queries, keys and values have a row for each slot of all sequences. Those of cached tokens and of kept rows are put
    into the cache, those of the batch's rows are written there by the attention itself.
    """
    manager = BlockManager(case.starts[-1] + len(case.slots) * BLOCK_SIZE, keys.dtype, device)
    _shuffle_blocks(manager)
    tables = [BlockTable(manager) for _ in case.slots]
    cache = manager.layer_kv(0, keys.to(device), values.to(device))
    for i, (table, cached) in enumerate(zip(tables, case.cached, strict=True)):
        table.reserve_slots(cached)
        table.keep_accepted(range(cached))
        table.reserve_slots(case.slots[i] - cached)
        before = cached + case.kept
        there = torch.tensor(table.slot_mapping(0, before), dtype=torch.int64, device=device)
        for tensor, source in zip(cache, (keys, values), strict=True):
            tensor.flatten(0, 1)[there] = source[case.starts[i] : case.starts[i] + before].to(device)
    sizes = [(len(parents) - case.kept, slots) for parents, slots in zip(case.parents, case.slots, strict=True)]
    groups = group_sequences(sizes, bounded=device.type == "cpu")
    spans: dict[int, SequenceSpan] = {}
    order: list[int] = []
    mapping: list[int] = []
    for i in chain.from_iterable(groups):
        span = spans[i] = _make_span(case, i, len(order), tables[i], paths)
        mapping += tables[i].slot_mapping(span.num_keys - span.num_rows, span.num_keys)
        order += range(case.starts[i + 1] - span.num_rows, case.starts[i + 1])
    batch = PackedBatch(
        manager,
        torch.tensor(mapping, device=device),
        [make_attention_group(manager, [spans[i] for i in group]) for group in groups],
    )
    query, key, value = (t[order].to(device).transpose(0, 1)[None].contiguous() for t in (queries, keys, values))
    attend = AttentionInterface()[ATTENTION]
    scale = query.shape[-1] ** -0.5
    out, _ = attend(LAYER, query, key, value, None, scaling=scale, packed=batch, sliding_window=case.window)
    return order, out[0]


def _make_span(case: Sequences, index: int, start: int, table: BlockTable, paths: TreePaths) -> SequenceSpan:
    cached, parents = case.cached[index], case.parents[index]
    rows, blocks = len(parents) - case.kept, table.blocks(len(parents))
    if parents == tuple(range(-1, len(parents) - 1)):
        return SequenceSpan(start, start + rows, cached + case.kept, blocks, torch.arange(rows), None)
    depth, mask = paths(parents)
    seen = torch.from_numpy(mask[case.kept :])
    return SequenceSpan(start, start + rows, cached, blocks, torch.from_numpy(depth), seen)


def _visible_keys(case: Sequences, index: int) -> list[list[int]]:
    """For each row behind the kept ones, the keys that it attends to: 0 is the first cached token's."""
    cached, parents = case.cached[index], case.parents[index]
    found: list[list[int]] = []
    for row in range(case.kept, len(parents)):
        path, node = [], row
        while node >= 0:
            path.append(node)
            node = parents[node]
        position = cached + len(path) - 1
        positions = {key: key for key in range(cached)}
        positions |= {cached + node: cached + depth for depth, node in enumerate(reversed(path))}
        first = 0 if case.window is None else position - case.window + 1
        found.append([key for key, at in positions.items() if at >= first])
    return found


def _define_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, visible: Sequence[Sequence[int]]
) -> torch.Tensor:
    """softmax(query . keys / sqrt(dim)) . values for each row and head; keys are shared by groups of query heads."""
    (_, kv_heads, dim), rows = keys.shape, []
    for query, seen in zip(queries.unflatten(1, (kv_heads, -1)), visible, strict=True):
        scores = torch.einsum("hgd,khd->hgk", query, keys[list(seen)]) * dim**-0.5
        rows.append(torch.einsum("hgk,khd->hgd", scores.softmax(dim=2), values[list(seen)]).flatten(0, 1))
    return torch.stack(rows)


def _count_wrong_moves(device: torch.device) -> int:
    """Numbers that differ after rows of a tree were accepted and kept, from what lists of them say."""
    manager = BlockManager(256, torch.bfloat16, device)
    _shuffle_blocks(manager)
    table = BlockTable(manager)
    values = torch.arange(64, dtype=torch.float32)[:, None, None].expand(64, 2, 4).to(torch.bfloat16)
    layer = manager.layer_kv(0, values.to(device), values.to(device))
    table.reserve_slots(20)
    table.keep_accepted(range(20))
    table.reserve_slots(44)
    slots = torch.tensor(table.slot_mapping(0, 64), device=device)
    for cache in layer:
        cache.flatten(0, 1)[slots] = values.to(device)
    accepted, kept = (0, 3, 4, 19), (21, 22, 30, 43)
    table.keep_rows(accepted, kept)
    expected = [*range(20), *(20 + row for row in (*accepted, *kept))]
    there = torch.tensor(table.slot_mapping(0, len(expected)), device=device)
    return sum(int((cache.flatten(0, 1)[there].cpu() != values[expected]).count_nonzero()) for cache in layer)


def _shuffle_blocks(manager: BlockManager) -> None:
    """Afterwards the pool hands out its blocks in a random order."""
    blocks = manager.allocate(manager.num_blocks)
    random.Random(5).shuffle(blocks)
    manager.free(blocks)


def _noise(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=generator).to(dtype)
