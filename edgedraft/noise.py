"""Gumbel noise g(seed, index, token): counter-based, and the same bits in NumPy and in torch on any device.

The random bits are Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Turning
them into Gumbel noise takes two logarithms, whose last bits differ between libraries; so they are taken once, into a
table over the leading bits of a float32, and every draw is a table look-up with integer interpolation. From the
seed to the noise there is no operation that two IEEE machines could round differently.

One code path serves both libraries: an int64 ndarray and an int64 tensor share the operators it is made of.
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


def philox(counters: Sequence[Any], keys: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
    """Philox4x32-10 on int64 arrays or tensors that hold unsigned 32-bit words and broadcast together.

    `counters` are four words, `keys` two. Known answers: tests/edgedraft/test_noise.py.
    """
    c0, c1, c2, c3 = counters
    k0, k1 = keys
    for _ in range(_ROUNDS):
        # A 32x32-bit product overflows int64's sign; its 64 bits are right all the same.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def exact_gumbel(x: np.ndarray) -> np.ndarray:
    """-log(-log(1 - x / 2**32)) in float64; at x = 2**32 its value half a float32 step before."""
    u = np.minimum(x, 2.0**32 - 2.0**7) / 2.0**32
    return -np.log(-np.log1p(-u))


@lru_cache(maxsize=1)
def gumbel_table() -> np.ndarray:
    """The int64 look-up table, shape [32770]: noise at float32 bit patterns from 1.0 to 2**32, in 2**-18."""
    bits = (np.arange(_ENTRIES, dtype=np.int64) + _FIRST_ENTRY) << _INTERPOLATED_BITS
    x = bits.astype(np.int32).view(np.float32).astype(np.float64)
    return np.rint(exact_gumbel(x) * 2.0**_FRACTION_BITS).astype(np.int64)


def gumbel_rows(
    seeds: Sequence[int], indices: Sequence[int], vocab_size: int, device: torch.device | str | None = None
) -> Any:
    """Standard Gumbel noise for output index `indices[r]` under `seeds[r]`.

    Shape [rows, vocab_size], float32; an ndarray when `device` is None, else a tensor on that device. Row r, column v
    depends on (seeds[r] mod 2**64, indices[r], v) alone.
    """
    if device is None:

        def words(values: Any) -> Any:
            return np.asarray(values, dtype=np.int64)

        blocks: Any = np.arange((vocab_size + 3) // 4, dtype=np.int64)
        table: Any = gumbel_table()
    else:
        import torch

        def words(values: Any) -> Any:
            return torch.tensor(values, dtype=torch.int64, device=device)

        blocks = torch.arange((vocab_size + 3) // 4, dtype=torch.int64, device=device)
        table = _table_on(str(device))

    low = words([[seed & _MASK] for seed in seeds])
    high = words([[(seed >> 32) & _MASK] for seed in seeds])
    rows = words([[index & _MASK] for index in indices])
    zero = words(0)
    lanes = philox((blocks[None, :] + zero, rows, zero, zero), (low, high))

    # `| 1` keeps the draw away from 0, where the noise is infinite.
    if device is None:
        draws = np.stack(lanes, axis=-1).reshape(len(seeds), -1)[:, :vocab_size] | 1
        bits = draws.astype(np.float32).view(np.int32).astype(np.int64)
    else:
        import torch

        draws = torch.stack(lanes, dim=-1).reshape(len(seeds), -1)[:, :vocab_size] | 1
        bits = draws.to(torch.float32).view(torch.int32).to(torch.int64)

    entry = (bits >> _INTERPOLATED_BITS) - _FIRST_ENTRY
    fraction = bits & ((1 << _INTERPOLATED_BITS) - 1)
    left = table[entry]
    noise = left + (((table[entry + 1] - left) * fraction) >> _INTERPOLATED_BITS)
    if device is None:
        return noise.astype(np.float32) * np.float32(2.0**-_FRACTION_BITS)
    return noise.to(torch.float32) * 2.0**-_FRACTION_BITS


@lru_cache(maxsize=8)
def _table_on(device: str) -> torch.Tensor:
    import torch

    return torch.from_numpy(gumbel_table()).to(device)
