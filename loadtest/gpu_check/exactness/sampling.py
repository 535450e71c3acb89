"""Noise and sampling on the device, bit for bit those of the CPU (invariant 1).

top_p alone depends on sums of exponentials, which round differently on each device: there two samples may differ where
the mass before a token is the bound to within rounding, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch

from edgedraft.sampling.noise import gumbel_rows
from edgedraft.sampling.sampler import apply_filters, sample_next, sample_rows
from edgedraft.sampling.token_counts import TokenCounts
from edgedraft.tree import DraftSlice
from edgedraft.wire import Sampling
from loadtest.gpu_check.report import Section
from verifier.engine.interface import Request
from verifier.engine.verification import Verification

SampleRows = Callable[[torch.Tensor, Sampling, Sequence[int]], list[int]]

SEEDS = (0, 1, 2**32 + 5, 2**63 + 11, 2**64 - 1)
INDICES = (0, 1, 4095, 2**31 + 3)
TEMPERATURES = (0.3, 0.7, 0.8, 1.0, 1.3)
SEED = 11
MASS_ROUNDING = 1e-5
LOGPROB_ROUNDING = 1e-4
FILTERED = {
    "greedy": Sampling(temperature=0),
    "temperature": Sampling(temperature=0.8, seed=SEED),
    "top_k": Sampling(temperature=1.1, top_k=40, seed=SEED),
    "min_p": Sampling(temperature=0.9, min_p=0.05, seed=SEED),
    "bias": Sampling(temperature=0.7, logit_bias={3: 4.5, 17: -100.0}, seed=SEED),
}
PENALISED = Sampling(
    temperature=0.8, frequency_penalty=0.3, presence_penalty=0.7, repetition_penalty=1.3, top_k=50, seed=SEED
)
TOP_P = Sampling(temperature=1.0, top_p=0.9, seed=SEED)


@dataclass(frozen=True)
class Sizes:
    """Vocabularies of noise, and logits [rows, vocab] to sample from."""

    vocabularies: Sequence[int]
    vocab: int
    rows: int


FULL = Sizes((97, 49152, 151936), 151936, 64)
TINY = Sizes((97, 4099), 4099, 24)


def check_sampling(section: Section, device: torch.device, sizes: Sizes, sample: SampleRows = sample_rows) -> None:
    """`sample` is what the device samples with."""
    _check_noise(section, device, sizes)
    logits = torch.randn((sizes.rows, sizes.vocab), generator=torch.Generator().manual_seed(SEED)) * 3
    indices = range(sizes.rows)
    wrong = sum(
        _count_different_bits(
            apply_filters(logits, Sampling(temperature=temperature)),
            apply_filters(logits.to(device), Sampling(temperature=temperature)),
        )
        for temperature in TEMPERATURES
    )
    section.check("logits over temperature, bits", wrong == 0, different=wrong, temperatures=len(TEMPERATURES))
    # Of tokens that tie the first one counts. In bfloat16 some rows have ties, and whole numbers tie in all of them.
    kinds = {"float32": logits, "bfloat16": logits.to(torch.bfloat16), "ties": logits.round()}
    for (kind, z), (name, sampling) in product(kinds.items(), FILTERED.items()):
        own, here = sample_rows(z, sampling, indices), sample(z.to(device), sampling, indices)
        _check_tokens(section, f"tokens, {name}, {kind}", own, here)
    _check_penalties(section, logits, device)
    _check_top_p(section, logits, device, sample)
    _check_verification(section, logits, device)


def _check_noise(section: Section, device: torch.device, sizes: Sizes) -> None:
    different = drawn = 0
    for vocab in sizes.vocabularies:
        for seed in SEEDS:
            own = gumbel_rows([seed] * len(INDICES), INDICES, vocab)
            here = gumbel_rows([seed] * len(INDICES), INDICES, vocab, device).cpu().numpy()
            different += int(np.count_nonzero(own.view(np.int32) != here.view(np.int32)))
            drawn += own.size
    section.check("noise, bits against NumPy", different == 0, different=different, drawn=drawn)


def _check_penalties(section: Section, logits: torch.Tensor, device: torch.device) -> None:
    """Penalties, and a grammar's mask that leaves one token in three, row by row as verification goes."""
    vocab = logits.shape[1]
    counts = TokenCounts(PENALISED, range(0, vocab, 5), range(0, vocab, 7))
    allowed = torch.arange(vocab) % 3 == 0
    for name, mask in (("penalties", None), ("penalties and a grammar's mask", allowed)):
        found = [
            [
                sample_next(logits[i : i + 1].to(place), PENALISED, i, counts, None if mask is None else mask.to(place))
                for i in range(min(16, len(logits)))
            ]
            for place in (torch.device("cpu"), device)
        ]
        _check_tokens(section, f"tokens, {name}", *found)


def _check_top_p(section: Section, logits: torch.Tensor, device: torch.device, sample: SampleRows) -> None:
    indices = range(len(logits))
    own, here = sample_rows(logits, TOP_P, indices), sample(logits.to(device), TOP_P, indices)
    differing = [row for row in indices if own[row] != here[row]]
    wrong = [row for row in differing if not _is_at_bound(logits[row], {own[row], here[row]})]
    figures = {"rows": len(own), "differing": len(differing), "not_at_the_bound": len(wrong)}
    section.check("tokens, top_p", not wrong, **figures)


def _is_at_bound(row: torch.Tensor, tokens: set[int]) -> bool:
    """Whether the mass before one of these tokens is top_p to within rounding."""
    p = (row.double() / TOP_P.temperature).softmax(dim=0)
    return any(abs(float(p[p > p[token]].sum()) - TOP_P.top_p) < MASS_ROUNDING for token in tokens)


def _check_verification(section: Section, logits: torch.Tensor, device: torch.device) -> None:
    """A draft whose nodes are partly right, with the fewest tokens and log-probabilities asked for."""
    sampling = Sampling(temperature=0.8, seed=SEED, min_tokens=4)
    ends = frozenset(range(0, logits.shape[1], 2))
    request = Request(1, (1, 2, 3), sampling, 64, ends, logprobs=3)
    verify = partial(Verification(request, None).verify, first=0)
    first = verify(logits[:1], draft=DraftSlice()).tokens[0]
    wrong = (first + 1) % logits.shape[1]
    draft = DraftSlice((wrong, first, wrong), (-1, -1, 1), (0, 0, 0), (1, 1, 2))
    own, here = verify(logits[:4], draft=draft), verify(logits[:4].to(device), draft=draft)
    off = max(abs(a.logprob - b.logprob) for a, b in zip(own.logprobs, here.logprobs, strict=False))
    same = (own.tokens, own.path, own.finish) == (here.tokens, here.path, here.finish)
    figures = {"tokens": len(own.tokens), "logprobs_off_by": off}
    section.check("verification of a draft", same and off < LOGPROB_ROUNDING, **figures)


def _check_tokens(section: Section, name: str, own: Sequence[int], here: Sequence[int]) -> None:
    different = sum(a != b for a, b in zip(own, here, strict=True))
    section.check(name, different == 0, different=different, rows=len(own))


def _count_different_bits(own: torch.Tensor, here: torch.Tensor) -> int:
    return int((own.view(torch.int32) != here.cpu().view(torch.int32)).count_nonzero())
