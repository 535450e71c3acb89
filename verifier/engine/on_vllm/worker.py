"""Runs inside vLLM's workers: samples and verifies at the logits, as verification.py does for every engine.

It replaces vLLM's samplers, so that text is the function of prompt, parameters and seed that invariant 1 defines, with
and without drafts, and every sampling parameter works under speculation. In a tensor-parallel group the first rank
samples and broadcasts the tokens: cheaper than computing the same noise on each rank, and ranks cannot diverge.
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
from verifier.engine.interface import Request, RequestRejected
from verifier.engine.verification import Verification, VerifyResult

EXTRA_ARGS_KEY = "edgedraft"  # of VerifyParams in vLLM's SamplingParams.extra_args
PADDING = -1  # vLLM's placeholder where a request has fewer tokens than another


class VerifyParams(msgspec.Struct, frozen=True, array_like=True):
    """What a worker needs to verify a request: fields of Request, and how many tokens of vLLM's prompt are the prompt.

    The rest of vLLM's prompt are output tokens that were committed before.
    """

    num_prompt_tokens: int
    sampling: Sampling
    max_tokens: int
    eos: tuple[int, ...]
    logprobs: int


@lru_cache(maxsize=1)
def grammar_cache_for(card: bytes) -> GrammarCache:
    """The grammars of a model, from its ModelCard as MessagePack. Engine and worker share them within one process."""
    return GrammarCache(msgspec.msgpack.decode(card, type=ModelCard))


class NullDrafter:
    """A vLLM drafter that proposes nothing: drafts come from agents. Without a drafter vLLM verifies none of them."""

    def __init__(self, config: Any) -> None: ...

    def propose(self, sampled: Sequence[Sequence[int]], *args: Any, **kwargs: Any) -> list[list[int]]:
        return [[] for _ in sampled]

    def load_model(self, *args: Any, **kwargs: Any) -> None: ...


# vLLM creates a drafter in the last pipeline stage only, but reads it in every stage.
GPUModelRunner.drafter = NullDrafter(None)


class VerifyingWorker:
    """A mixin of vLLM's worker (its --worker-extension-cls)."""

    model_runner: Any

    def install_verification(self, card: bytes) -> None:
        """Replace vLLM's sampling from now on. `card` is a ModelCard as MessagePack, for grammars."""
        runner = self.model_runner
        runner._sample = VerifyingSampler(runner, grammar_cache_for(card))
        if runner.intermediate_tensors is None and not get_pp_group().is_first_rank:
            # vLLM allocates these in its warm-up, which it skips for an eager model on a CPU.
            runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens, dtype=runner.model_config.dtype, device=runner.device
            )


class VerifyingSampler:
    """Replaces the model runner's `_sample`."""

    def __init__(self, runner: Any, grammars: GrammarCache) -> None:
        self._runner = runner
        self._grammars = grammars
        self._verifications: dict[str, tuple[Verification, int]] = {}  # with the number of tokens committed before

    def __call__(self, logits: torch.Tensor | None, drafted: Any) -> SamplerOutput:
        """`logits` is [rows, vocab]: for each request of the batch one row, and one more per draft token."""
        count = self._runner.input_batch.num_reqs
        drafts: list[int] = drafted.num_draft_tokens if drafted else [0] * count
        width = max(drafts, default=0) + 2  # never 1: vLLM assumes that a single column has no padding
        group = get_tp_group()
        if group.rank_in_group == 0:
            assert logits is not None
            results = self._verify_batch(logits, drafts, drafted.draft_token_ids.tolist() if drafted else [])
            tokens = torch.tensor(
                [[*result.tokens, *[PADDING] * (width - len(result.tokens))] for result in results], dtype=torch.int32
            ).to(self._runner.device)
            logprobs = _logprobs(results, width)
        else:
            tokens = torch.empty((count, width), dtype=torch.int32, device=self._runner.device)
            logprobs = None
        if group.world_size > 1:
            group.broadcast(tokens, src=0)
        return SamplerOutput(sampled_token_ids=tokens, logprobs_tensors=logprobs)

    def _verify_batch(self, logits: torch.Tensor, drafts: Sequence[int], flat: Sequence[int]) -> list[VerifyResult]:
        runner = self._runner
        for request_id in self._verifications.keys() - runner.requests.keys():
            del self._verifications[request_id]
        in_prefill = runner.discard_request_mask.np
        results: list[VerifyResult] = []
        row = node = 0
        batch = zip(runner.input_batch.req_ids, drafts, strict=True)
        for index, (request_id, count) in enumerate(batch):
            if in_prefill[index]:
                results.append(VerifyResult())
            else:
                chain = DraftSlice.chain(flat[node : node + count])
                results.append(self._verify_request(request_id, logits[row : row + 1 + count], chain))
            row, node = row + 1 + count, node + count
        return results

    def _verify_request(self, request_id: str, logits: torch.Tensor, draft: DraftSlice) -> VerifyResult:
        state = self._runner.requests[request_id]
        if request_id not in self._verifications:
            try:
                self._verifications[request_id] = self._new_verification(state)
            except RequestRejected:  # its grammar has meanwhile been found too slow
                return VerifyResult()  # the engine ends the session
        verification, committed = self._verifications[request_id]
        return verification.verify(logits, committed + len(state.output_token_ids), draft)

    def _new_verification(self, state: Any) -> tuple[Verification, int]:
        """A request's verification, and the number of tokens committed before, which end vLLM's prompt."""
        params = msgspec.msgpack.decode(state.sampling_params.extra_args[EXTRA_ARGS_KEY], type=VerifyParams)
        committed = state.prompt_token_ids[params.num_prompt_tokens :]
        grammar = params.sampling.grammar
        request = Request(
            session=0,
            prompt=tuple(state.prompt_token_ids[: params.num_prompt_tokens]),
            sampling=params.sampling,
            max_tokens=params.max_tokens,
            eos=frozenset(params.eos),
            committed=tuple(committed),
            logprobs=params.logprobs,
            # Checked when the engine opened the session: it must not depend on whether its workers are busy now.
            prepared=self._grammars.compile_checked(grammar) if grammar else None,
        )
        return Verification(request, start_constraint(request, self._grammars)), len(committed)


def _logprobs(results: Sequence[VerifyResult], width: int) -> LogprobsTensors | None:
    """In vLLM's layout: `width` rows per request, the sampled token in column 0 and the top alternatives after it."""
    widest = max((1 + len(one.tokens) for result in results for one in result.logprobs), default=0)
    if not widest:
        return None
    ids = torch.zeros((len(results) * width, widest), dtype=torch.int32)
    values = torch.full((len(results) * width, widest), -torch.inf)
    for first_row, result in zip(accumulate([0, *[width] * len(results)]), results, strict=False):
        for row, (token, one) in enumerate(zip(result.tokens, result.logprobs, strict=False), first_row):
            ids[row, : 1 + len(one.tokens)] = torch.tensor([token, *one.tokens])
            values[row, : 1 + len(one.tokens)] = torch.tensor([one.logprob, *one.logprobs])
    return LogprobsTensors(ids, values, torch.zeros(len(results) * width, dtype=torch.int32))
