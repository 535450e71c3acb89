"""What runs inside vLLM's workers: the choice of tokens where the logits are, as choosing.py makes it for every engine.

It stands in for vLLM's samplers, so text is the function of prompt, parameters and seed that invariant 1 names, drafted
or not, and every parameter works under speculation. In a tensor-parallel group the first rank chooses and tells the
others, which is cheaper than each drawing the same noise, and cannot come out different.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import msgspec
import torch
from vllm.distributed.parallel_state import get_pp_group, get_tp_group
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from edgedraft.tree import DraftSlice
from edgedraft.wire import ModelCard, Sampling
from verifier.engine.grammar import GrammarCache, start_constraint
from verifier.engine.interface import Request
from verifier.engine.verification import Verification, VerifyResult

EXTRA = "edgedraft"  # the key of Wanted in vLLM's SamplingParams.extra_args
NONE = -1  # vLLM's filler where a request has fewer tokens than another


class Wanted(msgspec.Struct, frozen=True, array_like=True):
    """What a worker must know of a request to choose for it: Request's fields, and how much of vLLM's prompt is one."""

    prompt: int
    sampling: Sampling
    max_tokens: int
    eos: tuple[int, ...]
    logprobs: int


@lru_cache(maxsize=1)
def grammar_cache_for(card: bytes) -> GrammarCache:
    """Those of a ModelCard as MessagePack. A worker in the engine's own process shares them with it, compiled."""
    return GrammarCache(msgspec.msgpack.decode(card, type=ModelCard))


class NoDrafts:
    """vLLM's drafter: it has none, since drafts come from agents. There must be one, or nothing drafted is checked."""

    def __init__(self, config: Any) -> None: ...

    def propose(self, sampled: Sequence[Sequence[int]], *args: Any, **kwargs: Any) -> list[list[int]]:
        return [[] for _ in sampled]

    def load_model(self, *args: Any, **kwargs: Any) -> None: ...


# vLLM gives a drafter to the last stage of a pipeline alone, and then asks every stage for it.
GPUModelRunner.drafter = NoDrafts(None)


class ChoosingWorker:
    """Mixed into vLLM's worker (its --worker-extension-cls)."""

    model_runner: Any

    def choose_as_edgedraft(self, card: bytes) -> None:
        """From now on; `card` is a ModelCard as MessagePack, for grammars."""
        runner = self.model_runner
        runner._sample = Chooser(runner, grammar_cache_for(card))
        if runner.intermediate_tensors is None and not get_pp_group().is_first_rank:
            # vLLM makes these while it warms up, which an eager model on a CPU does not.
            runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens, dtype=runner.model_config.dtype, device=runner.device
            )


class Chooser:
    """In the place of the model runner's `_sample`."""

    def __init__(self, runner: Any, grammars: GrammarCache) -> None:
        self._runner = runner
        self._grammars = grammars
        self._chosen: dict[str, tuple[Verification, int]] = {}

    def __call__(self, logits: torch.Tensor | None, drafted: Any) -> SamplerOutput:
        """Logits [rows, vocab]: for each request of the batch one row, and one for each of its drafted tokens."""
        count = self._runner.input_batch.num_reqs
        drafts: list[int] = drafted.num_draft_tokens if drafted else [0] * count
        width = max(drafts, default=0) + 2  # never 1: vLLM takes a single column for filled everywhere
        group = get_tp_group()
        if group.rank_in_group == 0:
            assert logits is not None
            walks = self._walks(logits, drafts, drafted.draft_token_ids.tolist() if drafted else [])
            tokens = torch.tensor(
                [[*walk.tokens, *[NONE] * (width - len(walk.tokens))] for walk in walks], dtype=torch.int32
            ).to(self._runner.device)
            logprobs = _logprobs(walks, width)
        else:
            tokens = torch.empty((count, width), dtype=torch.int32, device=self._runner.device)
            logprobs = None
        if group.world_size > 1:
            group.broadcast(tokens, src=0)
        return SamplerOutput(sampled_token_ids=tokens, logprobs_tensors=logprobs)

    def _walks(self, logits: torch.Tensor, drafts: Sequence[int], flat: Sequence[int]) -> list[VerifyResult]:
        runner = self._runner
        for gone in self._chosen.keys() - runner.requests.keys():
            del self._chosen[gone]
        unfinished = runner.discard_request_mask.np
        walks: list[VerifyResult] = []
        row = node = 0
        for index, (name, count) in enumerate(zip(runner.input_batch.req_ids, drafts, strict=True)):
            if unfinished[index]:  # more of its prompt is to come
                walks.append(VerifyResult())
            else:
                chain = DraftSlice.chain(flat[node : node + count])
                walks.append(self._walk(name, logits[row : row + 1 + count], chain))
            row, node = row + 1 + count, node + count
        return walks

    def _walk(self, name: str, logits: torch.Tensor, draft: DraftSlice) -> VerifyResult:
        state = self._runner.requests[name]
        if name not in self._chosen:
            self._chosen[name] = self._begin(state)
        choices, committed = self._chosen[name]
        return choices.verify(logits, committed + len(state.output_token_ids), draft)

    def _begin(self, state: Any) -> tuple[Verification, int]:
        """A request's choices, and how many output tokens it came with: those vLLM takes for its prompt's."""
        wanted = msgspec.msgpack.decode(state.sampling_params.extra_args[EXTRA], type=Wanted)
        committed = state.prompt_token_ids[wanted.prompt :]
        request = Request(
            session=0,
            prompt=tuple(state.prompt_token_ids[: wanted.prompt]),
            sampling=wanted.sampling,
            max_tokens=wanted.max_tokens,
            eos=frozenset(wanted.eos),
            committed=tuple(committed),
            logprobs=wanted.logprobs,
        )
        return Verification(request, start_constraint(request, self._grammars)), len(committed)


def _logprobs(walks: Sequence[VerifyResult], width: int) -> LogprobsTensors | None:
    """As vLLM has them: a row a place of the batch, the chosen token in column 0, the best ones behind it."""
    widest = max((1 + len(one.tokens) for walk in walks for one in walk.logprobs), default=0)
    if not widest:
        return None
    ids = torch.zeros((len(walks) * width, widest), dtype=torch.int32)
    values = torch.full((len(walks) * width, widest), -torch.inf)
    for base, walk in zip(accumulate([0, *[width] * len(walks)]), walks, strict=False):
        for place, (token, one) in enumerate(zip(walk.tokens, walk.logprobs, strict=False), base):
            ids[place, : 1 + len(one.tokens)] = torch.tensor([token, *one.tokens])
            values[place, : 1 + len(one.tokens)] = torch.tensor([one.logprob, *one.logprobs])
    return LogprobsTensors(ids, values, torch.zeros(len(walks) * width, dtype=torch.int32))
