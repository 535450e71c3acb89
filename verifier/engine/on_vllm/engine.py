"""The engine interface over vLLM's engine core: each step of the scheduler is one step of the core.

The core runs in the engine's thread. Its workers run where vLLM's flags put them: in this process, in others, or
on other machines. It verifies chains only. Tokens are sampled by worker.py; this module keeps what is needed to report
them.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec
from vllm import SamplingParams
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import Request as VllmRequest
from vllm.v1.request import RequestStatus

from edgedraft.wire import FinishReason, ModelCard, Sampling, TokenLogprobs
from verifier.engine.grammar import Constraint, GrammarCache, start_constraint
from verifier.engine.interface import (
    Capacity,
    EngineLost,
    Overloaded,
    Request,
    ScheduledSession,
    StepResult,
    check_bounds,
)
from verifier.engine.on_vllm.scheduler import RequestStep, StepScheduler
from verifier.engine.on_vllm.worker import EXTRA_ARGS_KEY, VerifyParams
from verifier.engine.verification import GRAMMAR_FAILED


@dataclass(slots=True)
class _EngineSession:
    request: Request
    vllm_request: VllmRequest
    constraint: Constraint | None

    @property
    def request_id(self) -> str:
        return self.vllm_request.request_id

    @property
    def num_uncomputed(self) -> int:
        return self.vllm_request.num_tokens - self.vllm_request.num_computed_tokens

    @property
    def num_output_tokens(self) -> int:
        return self.vllm_request.num_tokens - len(self.request.prompt)


class VllmEngine:
    """verifier.engine.interface.Engine that verifies chains of at most `max_draft_tokens` tokens."""

    supports_trees = False

    def __init__(
        self, core: EngineCore, card: ModelCard, grammars: GrammarCache, max_sessions: int, max_draft_tokens: int
    ) -> None:
        self.vocab_size = card.vocab_size
        self.context_length = card.context_length
        self._core = core
        assert isinstance(core.scheduler, StepScheduler)
        self._scheduler = core.scheduler
        self._max_sessions = max_sessions
        self._max_draft_tokens = max_draft_tokens
        self._grammars = grammars
        self._sessions: dict[int, _EngineSession] = {}
        self._session_of_request: dict[str, int] = {}  # by vLLM's request id
        self._request_ids = count()  # never reused: workers learn of a request's end only with the next step
        cache = core.vllm_config.cache_config
        self._block_size = int(cache.block_size)
        self._kv_tokens = (int(cache.num_gpu_blocks) - 1) * self._block_size  # block 0 is vLLM's null block

    def precompile(self, sampling: Sampling, share: str) -> object:
        return self._grammars.compile(sampling.grammar, share) if sampling.grammar else None

    def validate(self, request: Request) -> None:
        check_bounds(request, self.vocab_size, min(self.context_length, self._kv_tokens))
        start_constraint(request, self._grammars)

    def open(self, request: Request) -> int:
        check_bounds(request, self.vocab_size, min(self.context_length, self._kv_tokens))
        session = _EngineSession(request, self._new_request(request), start_constraint(request, self._grammars))
        if len(self._sessions) >= self._max_sessions:
            raise Overloaded(f"{self._max_sessions} sessions are running")
        num_uncomputed, needed = self._count_uncached(session.vllm_request)
        promised = sum(other.num_uncomputed for other in self._sessions.values())
        if self._sessions and promised + needed + self._block_size > self.capacity().free_kv_tokens:
            raise Overloaded("others need all of the KV cache")
        self._core.add_request(session.vllm_request)
        self._sessions[request.session] = session
        self._session_of_request[session.request_id] = request.session
        return num_uncomputed

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        began = time.perf_counter()
        self._scheduler.next_step = {
            self._sessions[item.session].request_id: RequestStep(
                item.num_tokens, item.draft.most_likely_path().tokens[: self._max_draft_tokens]
            )
            for item in scheduled
        }
        try:
            outputs, _ = self._core.step()
        except Exception as error:
            raise EngineLost(str(error)) from error
        step = self._scheduler.last_output
        assert step is not None
        by_request = {output.request_id: output for group in outputs.values() for output in group.outputs}
        seconds = (time.perf_counter() - began) / max(1, step.total_num_scheduled_tokens)
        drafts = step.scheduled_spec_decode_tokens
        results = [
            self._step_result(
                self._session_of_request[request_id],
                by_request.get(request_id),
                drafts.get(request_id, ()),
                seconds * num_tokens,
            )
            for request_id, num_tokens in step.num_scheduled_tokens.items()
        ]
        preempted = (step.preempted_req_ids or set()) - step.num_scheduled_tokens.keys()
        return results + [
            StepResult(key, (), self._sessions[key].num_uncomputed)
            for key in sorted(self._session_of_request[request_id] for request_id in preempted)
        ]

    def close(self, session: int) -> None:
        if closed := self._sessions.pop(session, None):
            del self._session_of_request[closed.request_id]
            self._scheduler.finish_requests(closed.request_id, RequestStatus.FINISHED_ABORTED)

    def capacity(self) -> Capacity:
        free = self._scheduler.kv_cache_manager.block_pool.get_num_free_blocks() * self._block_size
        return Capacity(self._max_sessions - len(self._sessions), self._kv_tokens, free)

    def shut_down(self) -> None:
        """End vLLM's workers."""
        self._core.shutdown()

    def _new_request(self, request: Request) -> VllmRequest:
        """The request for vLLM, which ends it only at its length; worker.py replaces vLLM's sampling."""
        params = VerifyParams(
            num_prompt_tokens=len(request.prompt),
            sampling=request.sampling,
            max_tokens=request.max_tokens,
            eos=tuple(request.eos),
            logprobs=request.logprobs,
        )
        return VllmRequest(
            request_id=str(next(self._request_ids)),
            prompt_token_ids=[*request.prompt, *request.committed],
            sampling_params=SamplingParams(
                temperature=0,
                max_tokens=request.max_tokens - len(request.committed),
                ignore_eos=True,
                detokenize=False,
                logprobs=request.logprobs if request.logprobs >= 0 else None,
                extra_args={EXTRA_ARGS_KEY: msgspec.msgpack.encode(params)},
            ),
            pooling_params=None,
            cache_salt=request.salt or None,
            block_hasher=self._core.request_block_hasher,
        )

    def _count_uncached(self, request: VllmRequest) -> tuple[int, int]:
        """The request's tokens that are not in the prefix cache, and the free slots that it would need.

        Cached blocks that no request holds count as free slots, so they are included in the second number.
        """
        blocks, cached, _ = self._scheduler.kv_cache_manager.get_computed_blocks(request)
        idle = sum(block.ref_cnt == 0 for block in blocks.blocks[0]) * self._block_size
        num_uncomputed = request.num_tokens - cached
        return num_uncomputed, num_uncomputed + idle

    def _step_result(self, key: int, output: Any, draft: Sequence[int], seconds: float) -> StepResult:
        session = self._sessions[key]
        tokens = tuple(output.new_token_ids) if output else ()
        if not tokens and session.num_uncomputed > 0:
            return StepResult(key, (), session.num_uncomputed, seconds=seconds)
        accepted = next(
            (i for i, (token, drafted) in enumerate(zip(tokens, draft, strict=False)) if token != drafted),
            min(len(tokens), len(draft)),
        )
        return StepResult(
            session=key,
            tokens=tokens,
            num_uncomputed=session.num_uncomputed,
            nodes=len(draft),
            depth=len(draft),
            accepted=accepted,
            seconds=seconds,
            finish=self._finish_reason(session, tokens),
            logprobs=_logprobs(output.new_logprobs, session.request.logprobs) if tokens else (),
            failure="" if tokens else GRAMMAR_FAILED,  # vLLM returns nothing else of the worker's verification
        )

    def _finish_reason(self, session: _EngineSession, tokens: Sequence[int]) -> FinishReason | None:
        """The finish reason of the worker's verification, derived from its tokens: vLLM returns nothing else."""
        if not tokens:
            return None
        if constraint := session.constraint:
            for token in tokens:
                constraint.accept_token(token)
        if tokens[-1] in session.request.eos or (session.constraint and session.constraint.is_complete):
            return "stop"
        return "length" if session.num_output_tokens >= session.request.max_tokens else None


def _logprobs(lists: Any, alternatives: int) -> tuple[TokenLogprobs, ...]:
    if lists is None or alternatives < 0:
        return ()
    return tuple(
        TokenLogprobs(float(values[0]), ids[1 : 1 + alternatives].tolist(), values[1 : 1 + alternatives].tolist())
        for ids, values in zip(lists.logprob_token_ids, lists.logprobs, strict=True)
    )
