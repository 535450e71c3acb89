"""The noise: Philox as published, bits as in docs/noise.md on every path, and standard Gumbel in distribution."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from edgedraft.sampling.noise import exact_gumbel, gumbel_at, gumbel_rows, gumbel_table, philox

DOCUMENT = (Path(__file__).parents[3] / "docs" / "noise.md").read_text()
VECTORS = [
    (int(seed), int(index), int(token), float(value), bits)
    for seed, index, token, value, bits in re.findall(
        r"^\| (-?\d+) \| (\d+) \| (\d+) \| (-?[\d.]+) \| `([0-9a-f]{8})` \|$", DOCUMENT, re.MULTILINE
    )
]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
DRAWS = 1 << 21


# The generator

# kat_vectors of the Random123 distribution, philox4x32 with 10 rounds: counter, key, answer.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(line: str) -> list[np.ndarray]:
    return [np.array([int(word, 16)], dtype=np.int64) for word in line.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_known_answers(counter: str, key: str, answer: str) -> None:
    got = philox(words(counter), words(key))
    assert " ".join(f"{int(word[0]):08x}" for word in got) == answer
    tensors = philox([torch.from_numpy(w) for w in words(counter)], [torch.from_numpy(w) for w in words(key)])
    assert " ".join(f"{int(word[0]):08x}" for word in tensors) == answer


# The bits


def g(seed: int, index: int, token: int) -> float:
    """docs/noise.md once more, in plain Python."""
    c = [token >> 2, index, 0, 0]
    k = [seed % 2**32, (seed >> 32) % 2**32]
    for _ in range(10):
        p, q = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(q >> 32) ^ c[1] ^ k[0], q % 2**32, (p >> 32) ^ c[3] ^ k[1], p % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    b = int.from_bytes(struct.pack(">f", c[token % 4] | 1))
    entry, fraction = (b >> 13) - 127 * 1024, b % 2**13
    left, right = table_entry(entry), table_entry(entry + 1)
    return (left + (right - left) * fraction // 2**13) * 2.0**-18


def table_entry(k: int) -> int:
    """By the logarithms of Python's math, which are not NumPy's."""
    (x,) = struct.unpack(">f", ((k + 127 * 1024) << 13).to_bytes(4))
    return round(-math.log(-math.log1p(-min(x, 2.0**32 - 302_000) / 2.0**32)) * 2**18)


def bits(noise: np.ndarray) -> list[str]:
    return [f"{int(word):08x}" for word in noise.astype(np.float32).view(np.uint32).ravel()]


def test_the_document_has_vectors() -> None:
    assert len(VECTORS) >= 10
    assert any(seed < 0 for seed, *_ in VECTORS)
    assert any(index > 0 for _, index, *_ in VECTORS)


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_the_published_vectors(vector: tuple[int, int, int, float, str]) -> None:
    seed, index, token, value, expected = vector
    row = gumbel_rows([seed], [index], token + 1)[0]
    assert bits(row[token:]) == [expected]
    assert float(row[token]) == pytest.approx(value, abs=1e-6)
    assert g(seed, index, token) == float(row[token])


def test_the_published_table() -> None:
    table = gumbel_table()
    assert table.dtype == np.int32
    (digest,) = re.findall(r"`([0-9a-f]{64})`", DOCUMENT)
    assert hashlib.sha256(table.astype("<i4").tobytes()).hexdigest() == digest
    assert [int(table[k]) for k in (0, 1, 16384, 32767, 32768)] == [5814540, 5814284, 2907268, -532515, -591882]


def test_plain_python_agrees_on_many_draws() -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        seed, index = int(rng.integers(-(2**63), 2**63)), int(rng.integers(0, 2**31))
        row = gumbel_rows([seed], [index], 50)[0]
        assert [g(seed, index, token) for token in range(50)] == row.tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_torch_draws_the_same_bits(device: str) -> None:
    seeds, indices = [0, 1, -1, 2**63 - 1, -(2**63), 77], [0, 5, 2**31 - 1, 1, 2, 3]
    for vocab_size in (1, 4, 6, 49_152):
        drawn = gumbel_rows(seeds, indices, vocab_size, device)
        assert drawn.dtype == torch.float32
        assert drawn.device.type == device
        expected = gumbel_rows(seeds, indices, vocab_size)
        assert expected.dtype == np.float32
        np.testing.assert_array_equal(drawn.cpu().numpy().view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("device", [None, *DEVICES])
def test_shapes(device: str | None) -> None:
    for rows, vocab_size in ((0, 10), (1, 0), (3, 1), (2, 5)):
        assert tuple(gumbel_rows([1] * rows, range(rows), vocab_size, device).shape) == (rows, vocab_size)


def test_a_draw_depends_on_seed_index_and_token_alone() -> None:
    whole = gumbel_rows([3, 3, 4], [7, 8, 7], 1000)
    for vocab_size in (1, 2, 3, 4, 5, 999):
        np.testing.assert_array_equal(gumbel_rows([3], [7], vocab_size)[0], whole[0, :vocab_size])
    np.testing.assert_array_equal(gumbel_rows([4, 3], [7, 8], 1000), whole[[2, 1]])
    assert len({row.tobytes() for row in whole}) == 3


def test_single_tokens_have_the_noise_of_the_complete_row() -> None:
    tokens = np.array([0, 1, 6, 7, 16384, 40001, 49151])
    whole = gumbel_rows([12], [3], 49152)[0]
    np.testing.assert_array_equal(gumbel_at(12, 3, tokens), whole[tokens])
    np.testing.assert_array_equal(gumbel_rows([12], [3], 5)[0], whole[:5])


def test_seeds_are_taken_modulo_2_to_the_64() -> None:
    np.testing.assert_array_equal(gumbel_rows([-1], [0], 64), gumbel_rows([2**64 - 1], [0], 64))
    one, other = gumbel_rows([5, 5 + 2**32], [0, 0], 64)
    assert (one != other).all()


# The table


def table_points() -> np.ndarray:
    """The draws at which the table's entries are exact."""
    patterns = ((np.arange(len(gumbel_table())) + 127 * 1024) << 13).astype(np.int32)
    return patterns.view(np.float32).astype(np.float64)


def test_no_entry_is_near_a_rounding_tie() -> None:
    """Two logarithms that err in their last bits, 1e-15 here, must not round an entry differently."""
    units = exact_gumbel(table_points()) * 2.0**18
    to_tie = np.abs(units - np.floor(units) - 0.5) / 2.0**18
    assert to_tie.min() > 1e-12


def test_interpolation_is_close() -> None:
    """To a thousandth but in the lowest two thousandths of all draws; never up where the exact noise goes down."""
    x = np.unique(np.geomspace(1, 2.0**32 - 2.0**23, 200_001).astype(np.float32))
    entry = (x.view(np.int32).astype(np.int64) >> 13) - 127 * 1024
    fraction = x.view(np.int32).astype(np.int64) & 8191
    table = gumbel_table()
    noise = (table[entry] + (((table[entry + 1] - table[entry]) * fraction) >> 13)) * 2.0**-18
    assert np.abs(noise - exact_gumbel(x.astype(np.float64))).max() < 1e-3
    assert (np.diff(noise) <= 0).all()
    assert (np.diff(table) <= 0).all()


def test_the_mean_of_exp_of_minus_noise_is_one() -> None:
    """Exactly, over all draws: a token of small probability p wins against the rest p times that often."""
    x, minus = table_points()[:-1], -gumbel_table()[:-1] * 2.0**-18
    rise = np.diff(minus)
    mean_in_segment = np.exp(minus[:-1]) * np.where(rise > 0, np.expm1(rise) / np.where(rise > 0, rise, 1), 1)
    assert (mean_in_segment * np.diff(x)).sum() / 2.0**32 == pytest.approx(1, abs=2e-6)


# The distribution: fixed seeds, and bounds that a fair draw would miss in about one run of a thousand


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    return gumbel_rows([1234] * 32, range(32), DRAWS // 32)


def test_mean_and_variance(draws: np.ndarray) -> None:
    sample = draws.astype(np.float64).ravel()
    variance = math.pi**2 / 6
    assert sample.size >= 2_000_000
    assert sample.mean() == pytest.approx(np.euler_gamma, abs=3.3 * math.sqrt(variance / DRAWS))
    # The fourth central moment of a Gumbel is 5.4 times the squared variance.
    assert sample.var() == pytest.approx(variance, abs=3.3 * variance * math.sqrt(4.4 / DRAWS))


def test_kolmogorov_smirnov_against_gumbel(draws: np.ndarray) -> None:
    cdf = np.exp(-np.exp(-np.sort(draws.astype(np.float64).ravel())))
    steps = np.arange(DRAWS + 1) / DRAWS
    distance = max((steps[1:] - cdf).max(), (cdf - steps[:-1]).max())
    assert distance * math.sqrt(DRAWS) < 1.95


def test_neighbours_are_independent(draws: np.ndarray) -> None:
    """Tokens, indices and seeds that follow one another: no correlation of the uniforms behind the noise."""
    uniform = np.exp(-np.exp(-draws.astype(np.float64)))
    seeds = gumbel_rows(range(1234, 1234 + 16), [0] * 16, DRAWS // 32)
    by_seed = np.exp(-np.exp(-seeds.astype(np.float64)))
    for one, other in (
        (uniform[:, :-1], uniform[:, 1:]),
        (uniform[:, :-4], uniform[:, 4:]),
        (uniform[:-1], uniform[1:]),
        (by_seed[:-1], by_seed[1:]),
    ):
        correlation = float(((one - 0.5) * (other - 0.5)).mean() * 12)
        assert abs(correlation) < 3.5 / math.sqrt(one.size)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_argmax_with_noise_samples_the_softmax(seed: int) -> None:
    p = np.array([0.4, 0.3, 0.15, 0.1, 0.03, 0.015, 0.004, 0.001])
    count = 30_000
    noise = gumbel_rows([seed] * count, range(count), len(p))
    chosen = np.bincount((np.log(p) + noise).argmax(axis=1), minlength=len(p))
    chi_square = ((chosen - count * p) ** 2 / (count * p)).sum()
    assert chi_square < 24.32  # 7 degrees of freedom, one in a thousand
