"""Gumbel noise g(seed, index, token): counter-based, and the same bits in NumPy and in torch on any device.

The random bits are Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Turning
them into Gumbel noise takes two logarithms, whose last bits differ between libraries; so they are taken once, into a
table over the leading bits of a float32, and every draw is a table look-up with integer interpolation. From the
seed to the noise there is no operation that two IEEE machines could round differently.

One code path serves both libraries: an ndarray and a tensor share the operators it is made of.
This file does not choose tokens (sampling.py does) and does not import torch unless it is handed a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

# A draw x in [1, 2**32] is looked up by the bits of float32(x): exponent and ten bits of mantissa choose the entry,
# the other thirteen interpolate. Entries count in units of 2**-18, so that every value is exact in float32.
_INTERPOLATED_BITS = 13
_FIRST_ENTRY = 127 << (23 - _INTERPOLATED_BITS)
_ENTRIES = (32 << (23 - _INTERPOLATED_BITS)) + 2
_FRACTION_BITS = 18

# The last segment stands for a tail without end. Ending it here keeps the mean of exp(-noise) at 1, on which the
# frequencies of improbable tokens rest (with the end at 2**32 - 2**7 they came out 0.16 % too high).
_END = 2.0**32 - 302_000


def philox(counters: Sequence[Any], keys: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
    """Philox4x32-10 on int64 arrays or tensors that hold unsigned 32-bit words and broadcast together.

    `counters` are four words, `keys` two. Known answers: tests/edgedraft/sampling/test_noise.py.
    """
    c0, c1, c2, c3 = counters
    k0, k1 = keys
    for _ in range(_ROUNDS):
        # A 32x32-bit product overflows int64's sign; its 64 bits are right all the same.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = _high(p1) ^ c1, _high(p0) ^ c3
        c0 ^= k0
        c2 ^= k1
        p1 &= _MASK
        p0 &= _MASK
        c1, c3 = p1, p0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _high(product: Any) -> Any:
    word = product >> 32
    word &= _MASK
    return word


def exact_gumbel(x: np.ndarray) -> np.ndarray:
    """-log(-log(1 - x / 2**32)) in float64, where _END stands for all beyond it."""
    return -np.log(-np.log1p(-np.minimum(x, _END) / 2.0**32))


@lru_cache(maxsize=1)
def gumbel_table() -> np.ndarray:
    """The int32 look-up table, shape [32770]: noise at float32 bit patterns from 1.0 to 2**32, in 2**-18.

    No step from entry to entry times a 13-bit fraction overflows.
    """
    bits = (np.arange(_ENTRIES, dtype=np.int64) + _FIRST_ENTRY) << _INTERPOLATED_BITS
    x = bits.astype(np.int32).view(np.float32).astype(np.float64)
    return np.rint(exact_gumbel(x) * 2.0**_FRACTION_BITS).astype(np.int32)


def gumbel_rows(
    seeds: Sequence[int], indices: Sequence[int], vocab_size: int, device: torch.device | str | None = None
) -> Any:
    """Standard Gumbel noise for output index `indices[r]` under `seeds[r]`.

    Shape [rows, vocab_size], float32; an ndarray when `device` is None, else a tensor on that device. Row r, column v
    depends on (seeds[r] mod 2**64, indices[r], v) alone.
    """
    xp: Any = _NumPy() if device is None else _Torch(device)
    blocks = (vocab_size + 3) // 4
    rows = [
        xp.join(
            [_drawn(xp, seed, index, xp.span(i, min(blocks, i + xp.chunk))) for i in range(0, max(1, blocks), xp.chunk)]
        )
        for seed, index in zip(seeds, indices, strict=True)
    ]
    return xp.stack([row.reshape(-1)[:vocab_size] for row in rows], 0) if rows else xp.empty((0, vocab_size))


def gumbel_at(seed: int, index: int, tokens: np.ndarray) -> np.ndarray:
    """The noise of those `tokens` (int64 [n]) alone, float32 [n]: gumbel_rows' row at these columns."""
    return _drawn(_NumPy(), seed, index, tokens >> 2)[np.arange(len(tokens)), tokens & 3]


def _drawn(xp: Any, seed: int, index: int, blocks: Any) -> Any:
    """Noise of the four tokens of each block, float32 [blocks, 4]."""
    zero = blocks * 0
    key = xp.word(seed & _MASK), xp.word((seed >> 32) & _MASK)
    # `| 1` keeps the draw away from 0, where the noise is infinite.
    bits = xp.float_bits(xp.stack(philox((blocks, zero + (index & _MASK), zero, zero), key), -1) | 1)
    table = xp.table()
    entry = (bits >> _INTERPOLATED_BITS) - _FIRST_ENTRY
    left = table[entry]
    rise = table[entry + 1] - left
    rise *= bits & ((1 << _INTERPOLATED_BITS) - 1)
    rise >>= _INTERPOLATED_BITS
    left += rise
    return xp.scaled(left)


class _NumPy:
    """What NumPy and torch spell differently."""

    chunk = 4096  # blocks whose arrays stay in a processor's cache

    def word(self, value: int) -> np.ndarray:
        return np.asarray(value, dtype=np.int64)

    def span(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop, dtype=np.int64)

    def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)

    def empty(self, shape: tuple[int, int]) -> np.ndarray:
        return np.empty(shape, dtype=np.float32)

    def stack(self, parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
        return np.stack(parts, axis=axis)

    def float_bits(self, x: np.ndarray) -> np.ndarray:
        return x.astype(np.float32).view(np.int32)

    def table(self) -> np.ndarray:
        return gumbel_table()

    def scaled(self, units: np.ndarray) -> np.ndarray:
        return units.astype(np.float32) * np.float32(2.0**-_FRACTION_BITS)


class _Torch:
    """The same on a torch device."""

    chunk = 1 << 30

    def __init__(self, device: torch.device | str) -> None:
        import torch

        self._torch, self._device = torch, device

    def word(self, value: int) -> torch.Tensor:
        return self._torch.tensor(value, dtype=self._torch.int64, device=self._device)

    def span(self, start: int, stop: int) -> torch.Tensor:
        return self._torch.arange(start, stop, device=self._device)

    def join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._torch.cat(tuple(parts))

    def empty(self, shape: tuple[int, int]) -> torch.Tensor:
        return self._torch.empty(shape, device=self._device)

    def stack(self, parts: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
        return self._torch.stack(tuple(parts), dim=axis)

    def float_bits(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self._torch.float32).view(self._torch.int32)

    def table(self) -> torch.Tensor:
        return _table_on(str(self._device))

    def scaled(self, units: torch.Tensor) -> torch.Tensor:
        return units.to(self._torch.float32) * 2.0**-_FRACTION_BITS


@lru_cache(maxsize=8)
def _table_on(device: str) -> torch.Tensor:
    import torch

    return torch.from_numpy(gumbel_table()).to(device)
