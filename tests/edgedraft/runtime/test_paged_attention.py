"""How the work of paged attention is divided. test_paged_kernel.py runs it."""

from __future__ import annotations

import os
import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedraft.runtime.attention_groups import SequenceSpan
from edgedraft.runtime.block_manager import BLOCK_SIZE
from edgedraft.runtime.paged_attention import ROWS_PER_SPLIT, SPLIT_KEYS, divide_work


def chain(start: int, rows: int, num_cached: int) -> SequenceSpan:
    blocks = list(range(-(-(num_cached + rows) // BLOCK_SIZE)))
    return SequenceSpan(start, start + rows, num_cached, blocks, torch.arange(rows), None)


@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(0, 3000)), min_size=1, max_size=6),
    st.integers(1, 16),
    st.sampled_from([16, 32, 64]),
)
@settings(deadline=None)
def test_every_row_and_key_is_in_one_split(sizes: list[tuple[int, int]], group: int, tile: int) -> None:
    spans: list[SequenceSpan] = []
    for rows, num_cached in sizes:
        spans.append(chain(spans[-1].stop if spans else 0, rows, num_cached))
    splits, merges = divide_work(spans, group, tile)
    keys_of = {row: [] for row in range(spans[-1].stop)}
    for first_row, num_rows, _, _, begin, end, *_ in splits:
        assert 0 < num_rows * group <= tile
        for row in range(first_row, first_row + num_rows):
            keys_of[row] += range(begin, end)
    for span in spans:
        for row in range(span.start, span.stop):
            own = span.num_cached + row - span.start + 1
            assert keys_of[row] == list(range(len(keys_of[row])))
            assert own <= len(keys_of[row]) <= span.num_keys
    places = [place for *_, place in splits if place >= 0]
    assert places == list(range(sum(count for *_, count in merges)))
    assert len(merges) == len({first for first, *_, place in splits if place >= 0})


def test_others_in_the_batch_do_not_change_how_a_sequence_is_split() -> None:
    def boundaries(spans: list[SequenceSpan], tile: int) -> set[int]:
        splits, _ = divide_work(spans, 4, tile)
        return {begin for first_row, *_, begin, _, _, _, _, _ in splits if first_row == 0}

    own = chain(0, 1, 5 * SPLIT_KEYS)
    assert boundaries([own], 16) == boundaries([own, chain(1, 300, 90)], 64) == {i * SPLIT_KEYS for i in range(6)}


def test_partial_results_stay_small_where_a_prompt_is_long() -> None:
    """At most those of its keys divided by SPLIT_KEYS, whatever its number of rows, and one more per tile."""
    _, merges = divide_work([chain(0, 512, 30000)], 4, ROWS_PER_SPLIT)
    assert sum(count for *_, count in merges) <= 30512 // SPLIT_KEYS + 512 * 4 // ROWS_PER_SPLIT


def test_without_triton_or_cuda_the_error_says_what_is_missing() -> None:
    words = "import torch; from edgedraft.runtime.paged_attention import check_available as c; c(torch.device('cpu'))"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    made = subprocess.run([sys.executable, "-c", words], env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 1
    message = made.stderr.splitlines()[-1]
    assert "needs Triton" in message or "runs on CUDA" in message
