"""Gumbel noise g(seed, index, token): counter-based, with the same bits in NumPy and in torch on any device.

The random bits come from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Turning
them into Gumbel noise takes two logarithms, whose last bits differ between libraries. They are therefore taken once,
into a table indexed by the leading bits of a float32, and each draw is a look-up with integer interpolation: no
operation between seed and noise can round differently on two IEEE machines. docs/noise.md specifies it bit by bit.

One code path serves both libraries, through operators that ndarrays and tensors share. This module samples no tokens
(sampler.py does) and imports torch only when it is given a device.
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

# The last segment stands for an infinite tail. With this end the mean of exp(-noise) is 1, which determines how often
# improbable tokens are sampled (with the end at 2**32 - 2**7 they were sampled 0.16 % too often).
_END = 2.0**32 - 302_000


def philox(counters: Sequence[Any], keys: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
    """Philox4x32-10 on int64 arrays or tensors that hold unsigned 32-bit words and broadcast together.

    `counters` are four words, `keys` two; returns four words. Known answers: tests/edgedraft/sampling/test_noise.py.
    """
    c0, c1, c2, c3 = counters
    k0, k1 = keys
    for _ in range(_ROUNDS):
        # A product of two 32-bit words may set int64's sign bit; its 64 bits are correct nevertheless.
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
    """-log(-log(1 - x / 2**32)) in float64, with x limited to _END."""
    return -np.log(-np.log1p(-np.minimum(x, _END) / 2.0**32))


@lru_cache(maxsize=1)
def gumbel_table() -> np.ndarray:
    """The int32 look-up table, shape [32770]: noise at float32 bit patterns from 1.0 to 2**32, in 2**-18.

    The difference of two neighbours times a 13-bit fraction does not overflow.
    """
    bits = (np.arange(_ENTRIES, dtype=np.int64) + _FIRST_ENTRY) << _INTERPOLATED_BITS
    x = bits.astype(np.int32).view(np.float32).astype(np.float64)
    return np.rint(exact_gumbel(x) * 2.0**_FRACTION_BITS).astype(np.int32)


def gumbel_rows(
    seeds: Sequence[int], indices: Sequence[int], vocab_size: int, device: torch.device | str | None = None
) -> Any:
    """Standard Gumbel noise for output index `indices[r]` under `seeds[r]`.

    Shape [rows, vocab_size], float32; an ndarray when `device` is None, else a tensor on that device. Row r, column v
    depends only on (seeds[r] mod 2**64, indices[r], v).
    """
    xp: Any = _NumPyOps() if device is None else _TorchOps(device)
    blocks = (vocab_size + 3) // 4
    starts = range(0, max(1, blocks), xp.chunk)
    rows = [
        xp.concatenate([_draw(xp, seed, index, xp.arange(i, min(blocks, i + xp.chunk))) for i in starts])
        for seed, index in zip(seeds, indices, strict=True)
    ]
    return xp.stack([row.reshape(-1)[:vocab_size] for row in rows], 0) if rows else xp.empty((0, vocab_size))


def gumbel_at(seed: int, index: int, tokens: np.ndarray) -> np.ndarray:
    """The noise of `tokens` (int64 [n]), float32 [n]: the same values as in gumbel_rows."""
    return _draw(_NumPyOps(), seed, index, tokens >> 2)[np.arange(len(tokens)), tokens & 3]


def _draw(xp: Any, seed: int, index: int, blocks: Any) -> Any:
    """Noise of the four tokens 4 * block ... 4 * block + 3 of each block, float32 [blocks, 4]."""
    zero = blocks * 0
    key = xp.word(seed & _MASK), xp.word((seed >> 32) & _MASK)
    # `| 1` excludes the draw 0, whose noise would be infinite.
    bits = xp.float_bits(xp.stack(philox((blocks, zero + (index & _MASK), zero, zero), key), -1) | 1)
    table = xp.table()
    entry = (bits >> _INTERPOLATED_BITS) - _FIRST_ENTRY
    left = table[entry]
    offset = table[entry + 1] - left
    offset *= bits & ((1 << _INTERPOLATED_BITS) - 1)
    offset >>= _INTERPOLATED_BITS
    left += offset
    return xp.to_float(left)


class _NumPyOps:
    """The operations that NumPy and torch spell differently, in NumPy."""

    chunk = 4096  # blocks at a time, so that intermediate arrays fit in the processor's cache

    def word(self, value: int) -> np.ndarray:
        return np.asarray(value, dtype=np.int64)

    def arange(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop, dtype=np.int64)

    def concatenate(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)

    def empty(self, shape: tuple[int, int]) -> np.ndarray:
        return np.empty(shape, dtype=np.float32)

    def stack(self, parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
        return np.stack(parts, axis=axis)

    def float_bits(self, x: np.ndarray) -> np.ndarray:
        return x.astype(np.float32).view(np.int32)

    def table(self) -> np.ndarray:
        return gumbel_table()

    def to_float(self, units: np.ndarray) -> np.ndarray:
        return units.astype(np.float32) * np.float32(2.0**-_FRACTION_BITS)


class _TorchOps:
    """The same operations on a torch device."""

    chunk = 1 << 30

    def __init__(self, device: torch.device | str) -> None:
        import torch

        self._torch, self._device = torch, device

    def word(self, value: int) -> torch.Tensor:
        return self._torch.tensor(value, dtype=self._torch.int64, device=self._device)

    def arange(self, start: int, stop: int) -> torch.Tensor:
        return self._torch.arange(start, stop, device=self._device)

    def concatenate(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._torch.cat(tuple(parts))

    def empty(self, shape: tuple[int, int]) -> torch.Tensor:
        return self._torch.empty(shape, device=self._device)

    def stack(self, parts: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
        return self._torch.stack(tuple(parts), dim=axis)

    def float_bits(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self._torch.float32).view(self._torch.int32)

    def table(self) -> torch.Tensor:
        return _table_on(str(self._device))

    def to_float(self, units: torch.Tensor) -> torch.Tensor:
        return units.to(self._torch.float32) * 2.0**-_FRACTION_BITS


@lru_cache(maxsize=8)
def _table_on(device: str) -> torch.Tensor:
    import torch

    return torch.from_numpy(gumbel_table()).to(device)
