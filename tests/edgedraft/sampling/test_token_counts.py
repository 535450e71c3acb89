"""Token counts: what prompt and output contribute, and that an appended path leaves no trace."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedraft.sampling.token_counts import TokenCounts, has_penalties
from edgedraft.wire import Sampling

REPETITION = Sampling(repetition_penalty=1.5)
FREQUENCY = Sampling(frequency_penalty=0.5)
TOKENS = st.lists(st.integers(0, 9), max_size=12)


def as_dict(counts: TokenCounts) -> dict[int, float]:
    tokens, occurrences = counts.to_arrays()
    assert (tokens.dtype, occurrences.dtype) == (np.int64, np.float32)
    assert len(set(tokens.tolist())) == len(tokens)
    return dict(zip(tokens.tolist(), occurrences.tolist(), strict=True))


@pytest.mark.parametrize(
    ("sampling", "penalises"),
    [
        (Sampling(), False),
        (Sampling(temperature=0, top_k=5, logit_bias={3: 1.0}), False),
        (Sampling(frequency_penalty=-0.1), True),
        (Sampling(presence_penalty=0.1), True),
        (Sampling(repetition_penalty=0.9), True),
    ],
    ids=["default", "bias", "frequency", "presence", "repetition"],
)
def test_only_penalties_depend_on_the_text(sampling: Sampling, penalises: bool) -> None:
    assert has_penalties(sampling) == penalises


@given(prompt=TOKENS, output=TOKENS)
def test_the_prompt_is_included_only_for_the_repetition_penalty(prompt: list[int], output: list[int]) -> None:
    expected = {token: float(count) for token, count in Counter(output).items()}
    assert as_dict(TokenCounts(FREQUENCY, prompt, output)) == expected
    assert as_dict(TokenCounts(REPETITION, prompt, output)) == dict.fromkeys(prompt, 0.0) | expected


@given(prompt=TOKENS, pieces=st.lists(TOKENS, max_size=4))
def test_it_does_not_matter_in_how_many_pieces_the_output_comes(prompt: list[int], pieces: list[list[int]]) -> None:
    counts = TokenCounts(REPETITION, prompt)
    for piece in pieces:
        counts.extend(piece)
    assert as_dict(counts) == as_dict(TokenCounts(REPETITION, prompt, [token for piece in pieces for token in piece]))


@given(prompt=TOKENS, output=TOKENS, path=TOKENS, further=TOKENS)
def test_a_path_counts_within_its_context_alone(
    prompt: list[int], output: list[int], path: list[int], further: list[int]
) -> None:
    counts = TokenCounts(REPETITION, prompt, output)
    with counts.with_path(path) as extended, extended.with_path(further) as further_extended:
        assert as_dict(further_extended) == as_dict(TokenCounts(REPETITION, prompt, [*output, *path, *further]))
    assert as_dict(counts) == as_dict(TokenCounts(REPETITION, prompt, output))
    counts.extend(further)
    assert as_dict(counts) == as_dict(TokenCounts(REPETITION, prompt, [*output, *further]))


def test_a_path_is_removed_when_the_body_raises() -> None:
    counts = TokenCounts(FREQUENCY, [], [1])
    with pytest.raises(RuntimeError), counts.with_path([1, 2]):
        raise RuntimeError
    assert as_dict(counts) == {1: 1.0}


def test_counts_of_single_tokens() -> None:
    counts = TokenCounts(REPETITION, [7], [1, 2, 2])
    assert counts.counts([2, 7, 8, 1, 2]).tolist() == [2.0, 0.0, 0.0, 1.0, 2.0]
    assert counts.counts([]).dtype == np.float32
