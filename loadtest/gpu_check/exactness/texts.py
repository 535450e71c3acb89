"""Texts of the embedded engine on the device against those of the CPU, with drafts and without (invariant 1).

In float32 two texts may part only where the target all but ties between two tokens: a device adds up in another order.
In bfloat16 the rate of such flips is measured, and each flip must still be between tokens that are close. An agent's
proposals are compared too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isnan

import torch

from edge_agent.drafters.interface import DraftRequest, Proposal
from edge_agent.drafters.pytorch.drafter import ModelDrafter
from edgedraft.runtime.packed_model import MAX_LOGIT_DIFFERENCE, PackedModel, SequenceRows
from edgedraft.sampling.sampler import apply_filters, gumbel_noise, sample_rows
from loadtest.gpu_check.exactness.pairs import CPU, KV_TOKENS, Pair
from loadtest.gpu_check.exactness.writing import (
    Texts,
    Written,
    drafts_of_model,
    made_up_drafts,
    sampling_of,
    write_texts,
)
from loadtest.gpu_check.report import Section

# How far apart in the float32 logits, in their standard deviations, two tokens may be that are taken for each other.
CLOSE = {torch.float32: 1e-3, torch.bfloat16: MAX_LOGIT_DIFFERENCE}
PROPOSAL_ROUNDING = 1e-3
COMPARED_POSITIONS = 6  # of each text, for proposals


@dataclass(frozen=True)
class Flip:
    """Two texts of a session that part after `text`: the tokens that follow in each."""

    session: int
    text: Sequence[int]
    tokens: tuple[int, int]


class Judge:
    """The target in float32 on the CPU: how close two tokens are in its eyes."""

    def __init__(self, model: PackedModel, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self._prompts = prompts

    def largest_margin(self, flips: Sequence[Flip]) -> float:
        """Between the scores of a flip's tokens, in standard deviations of the logits; 0 without flips."""
        return max((self._margin(flip) for flip in flips), default=0.0)

    def _margin(self, flip: Flip) -> float:
        sampling = sampling_of(flip.session)
        logits = text_logits(self.model, self._prompts[flip.session], [*flip.text, 0])[-1:]
        scores = logits
        if sampling.temperature:
            noise = gumbel_noise(sampling, [len(flip.text)], logits.shape[1], logits.device)
            scores = (apply_filters(logits, sampling) + noise) * sampling.temperature
        ours, theirs = scores[0, list(flip.tokens)].tolist()
        return abs(ours - theirs) / float(logits.std())


def check_texts(section: Section, device: torch.device, pair: Pair, here: Pair | None = None) -> None:
    """`here` is the pair on the device, if another one than on the CPU."""
    here = here or pair
    judge = Judge(pair.target(torch.float32, CPU), pair.prompts)
    own = _write(judge.model, pair)
    drafts = made_up_drafts(own.texts, pair.vocab)
    section.notes.append(f"target: {pair.name}, {len(pair.prompts)} prompts, {pair.tokens} tokens each")

    model = here.target(torch.float32, device)
    plain, drafted = _write(model, pair), write_texts(model, pair.prompts, pair.tokens, pair.vocab, drafts)
    _compare(section, "float32, plain, against the CPU", judge, own, plain, torch.float32)
    _compare(section, "float32, drafted, against plain", judge, plain, drafted, torch.float32)
    if pair.drafts:
        drafter = _make_drafter(here, torch.float32, device)
        modelled = write_texts(model, pair.prompts, pair.tokens, pair.vocab, drafts_of_model(drafter, pair.prompts))
        _compare(section, "float32, drafted by the draft model, against plain", judge, plain, modelled, torch.float32)
    model = here.target(torch.float32, device, pair.crowded_tokens)
    crowded = write_texts(model, pair.prompts, pair.tokens, pair.vocab, drafts)
    _compare(section, "float32, drafted, with few blocks", judge, plain, crowded, torch.float32)

    model = here.target(torch.bfloat16, device)
    _check_each_token(section, judge, model, pair, own.texts)
    plain, drafted = _write(model, pair), write_texts(model, pair.prompts, pair.tokens, pair.vocab, drafts)
    _compare(section, "bfloat16, drafted, against plain", judge, plain, drafted, torch.bfloat16)
    _check_proposals(section, device, pair, here, own.texts)


def _write(model: PackedModel, pair: Pair) -> Written:
    return write_texts(model, pair.prompts, pair.tokens, pair.vocab)


def _compare(section: Section, name: str, judge: Judge, own: Written, here: Written, dtype: torch.dtype) -> None:
    """Up to the first difference of each text; behind it two texts have nothing in common."""
    flips: list[Flip] = []
    compared = 0
    for session, text in own.texts.items():
        other = here.texts[session]
        same = next((i for i, (a, b) in enumerate(zip(text, other, strict=True)) if a != b), len(text))
        compared += same
        if same < len(text):
            compared += 1
            flips.append(Flip(session, text[:same], (text[same], other[same])))
    margin = judge.largest_margin(flips)
    section.check(
        f"texts in {name}",
        margin <= CLOSE[dtype] and here.leaked == 0,
        tokens=compared,
        flips=len(flips),
        flip_rate=len(flips) / compared,
        largest_margin=margin,
        allowed=CLOSE[dtype],
        steps=here.steps,
        accepted=here.accepted,
        evictions=here.evictions,
        leaked=here.leaked,
    )


def _check_each_token(section: Section, judge: Judge, model: PackedModel, pair: Pair, texts: Texts) -> None:
    """The token behind each beginning of the CPU's texts, so that one flip does not hide the next."""
    flips: list[Flip] = []
    for session, text in texts.items():
        logits = text_logits(model, pair.prompts[session], text)
        found = sample_rows(logits, sampling_of(session), range(len(text)))
        flips += [Flip(session, text[:i], (a, b)) for i, (a, b) in enumerate(zip(text, found, strict=True)) if a != b]
    tokens, margin = sum(map(len, texts.values())), judge.largest_margin(flips)
    section.check(
        "tokens in bfloat16, against float32 on the CPU",
        margin <= CLOSE[torch.bfloat16],
        tokens=tokens,
        flips=len(flips),
        flip_rate=len(flips) / tokens,
        largest_margin=margin,
        allowed=CLOSE[torch.bfloat16],
    )


def text_logits(model: PackedModel, prompt: Sequence[int], text: Sequence[int]) -> torch.Tensor:
    """Logits [tokens, vocab] in float32 that each token of `text` is sampled from, in one forward over all of it."""
    table = model.new_block_table()
    tokens = [*prompt, *text[:-1]]
    logits = model.forward([SequenceRows(table, tokens, logit_rows=range(len(prompt) - 1, len(tokens)))])
    table.truncate(0)
    return logits.float()


def _check_proposals(section: Section, device: torch.device, pair: Pair, here: Pair, texts: Texts) -> None:
    """An agent's proposals behind some positions of the texts and behind the best token there, in one forward."""
    own = _propose(_make_drafter(pair, torch.float32, CPU), pair, texts)
    found = _propose(_make_drafter(here, torch.float32, device), pair, texts)
    half = _propose(_make_drafter(here, torch.bfloat16, device), pair, texts)
    off = max(_distance(a, b) for a, b in zip(own, found, strict=True))
    best = sum(a.tokens[:1] == b.tokens[:1] for a, b in zip(own, half, strict=True))
    section.check(
        "an agent's proposals in float32",
        off <= PROPOSAL_ROUNDING,
        proposals=len(own),
        probabilities_off_by=off,
        best_token_same_in_bfloat16=best / len(own),
    )


def _make_drafter(pair: Pair, dtype: torch.dtype, device: torch.device) -> ModelDrafter:
    model, head_ids = pair.load_draft(dtype, device)
    return ModelDrafter(PackedModel(model, KV_TOKENS), KV_TOKENS, pair.vocab, head_ids)


def _propose(drafter: ModelDrafter, pair: Pair, texts: Texts) -> list[Proposal]:
    found: list[Proposal] = []
    for session, text in texts.items():
        drafter.open(session)
        for at in range(0, len(text) - 1, max(1, len(text) // COMPARED_POSITIONS)):
            committed = [*pair.prompts[session], *text[:at]]
            requests = [
                DraftRequest(session, [*committed, *path], len(committed), at + len(path), sampling_of(session))
                for path in ([], [text[at]], [(text[at] + 1) % pair.vocab])
            ]
            proposals = drafter.propose(requests)
            while not all(proposal.complete for proposal in proposals):
                proposals = drafter.propose(requests)
            found += proposals
        drafter.close(session)
    return found


def _distance(own: Proposal, here: Proposal) -> float:
    """The largest difference of any token's probability; a token that one side lacks counts as 0 there, if it is small.

    Tokens at the end of the list may be left out on one side where their probabilities tie.
    """
    if any(map(isnan, (*own.probabilities, *here.probabilities))):
        return inf
    a = dict(zip(own.tokens, own.probabilities, strict=True))
    b = dict(zip(here.tokens, here.probabilities, strict=True))
    least = min((*own.probabilities, *here.probabilities), default=0.0)
    return max((abs(a.get(token, least) - b.get(token, least)) for token in {*a, *b}), default=0.0)
