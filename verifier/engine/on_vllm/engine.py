"""engine.Engine over vLLM's engine core: one step of the scheduler is one step of it.

vLLM's core runs in the engine's thread; its workers are where its own flags put them, in this process, in others or on
other machines. It checks chains. What a session's text is, and when it ends, is decided by worker.py's choices; here is
kept only what is needed to tell it.
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
from verifier.engine.on_vllm.scheduler import Part, ToldScheduler
from verifier.engine.on_vllm.worker import EXTRA, Wanted


@dataclass(slots=True)
class _Session:
    request: Request
    state: VllmRequest
    constraint: Constraint | None

    @property
    def name(self) -> str:
        return self.state.request_id

    @property
    def unseen(self) -> int:
        return self.state.num_tokens - self.state.num_computed_tokens

    @property
    def output(self) -> int:
        return self.state.num_tokens - len(self.request.prompt)


class VllmEngine:
    """engine.Engine whose drafts are chains of up to `longest_draft` tokens."""

    supports_trees = False

    def __init__(
        self, core: EngineCore, card: ModelCard, grammars: GrammarCache, max_sessions: int, longest_draft: int
    ) -> None:
        self.vocab_size = card.vocab_size
        self.context_length = card.context_length
        self._core = core
        assert isinstance(core.scheduler, ToldScheduler)
        self._scheduler = core.scheduler
        self._max_sessions = max_sessions
        self._longest_draft = longest_draft
        self._grammars = grammars
        self._sessions: dict[int, _Session] = {}
        self._keys: dict[str, int] = {}  # by vLLM's name
        self._numbers = count()  # a name is not used again: workers hear of an end with the next step only
        cache = core.vllm_config.cache_config
        self._block = int(cache.block_size)
        self._kv_tokens = (int(cache.num_gpu_blocks) - 1) * self._block  # the first one holds nothing

    def precompile(self, sampling: Sampling) -> None:
        if sampling.grammar:
            self._grammars.get_or_compile(sampling.grammar)

    def validate(self, request: Request) -> None:
        check_bounds(request, self.vocab_size, min(self.context_length, self._kv_tokens))
        start_constraint(request, self._grammars)

    def open(self, request: Request) -> int:
        check_bounds(request, self.vocab_size, min(self.context_length, self._kv_tokens))
        session = _Session(request, self._state(request), start_constraint(request, self._grammars))
        if len(self._sessions) >= self._max_sessions:
            raise Overloaded(f"{self._max_sessions} sessions are running")
        unseen, needed = self._missing(session.state)
        promised = sum(other.unseen for other in self._sessions.values())
        if self._sessions and promised + needed + self._block > self.capacity().kv_free:
            raise Overloaded("others need all of the KV cache")
        self._core.add_request(session.state)
        self._sessions[request.session] = session
        self._keys[session.name] = request.session
        return unseen

    def step(self, work: Sequence[ScheduledSession]) -> list[StepResult]:
        began = time.perf_counter()
        most = self._longest_draft
        self._scheduler.told = {
            self._sessions[item.session].name: Part(item.num_tokens, item.draft.most_likely_path().tokens[:most])
            for item in work
        }
        try:
            outputs, _ = self._core.step()
        except Exception as error:
            raise EngineLost(str(error)) from error
        made = self._scheduler.made
        assert made is not None
        told = {output.request_id: output for group in outputs.values() for output in group.outputs}
        seconds = (time.perf_counter() - began) / max(1, made.total_num_scheduled_tokens)
        drafts = made.scheduled_spec_decode_tokens
        progress = [
            self._progress(self._keys[name], told.get(name), drafts.get(name, ()), seconds * rows)
            for name, rows in made.num_scheduled_tokens.items()
        ]
        lost = (made.preempted_req_ids or set()) - made.num_scheduled_tokens.keys()
        return progress + [
            StepResult(key, (), self._sessions[key].unseen) for key in sorted(self._keys[name] for name in lost)
        ]

    def close(self, session: int) -> None:
        if gone := self._sessions.pop(session, None):
            del self._keys[gone.name]
            self._scheduler.finish_requests(gone.name, RequestStatus.FINISHED_ABORTED)

    def capacity(self) -> Capacity:
        free = self._scheduler.kv_cache_manager.block_pool.get_num_free_blocks() * self._block
        return Capacity(self._max_sessions - len(self._sessions), self._kv_tokens, free)

    def shut_down(self) -> None:
        """End vLLM's workers."""
        self._core.shutdown()

    def _state(self, request: Request) -> VllmRequest:
        """The request as vLLM has it. It is not to end it by itself but at its length, and chooses nothing."""
        wanted = Wanted(
            prompt=len(request.prompt),
            sampling=request.sampling,
            max_tokens=request.max_tokens,
            eos=tuple(request.eos),
            logprobs=request.logprobs,
        )
        return VllmRequest(
            request_id=str(next(self._numbers)),
            prompt_token_ids=[*request.prompt, *request.committed],
            sampling_params=SamplingParams(
                temperature=0,
                max_tokens=request.max_tokens - len(request.committed),
                ignore_eos=True,
                detokenize=False,
                logprobs=request.logprobs if request.logprobs >= 0 else None,
                extra_args={EXTRA: msgspec.msgpack.encode(wanted)},
            ),
            pooling_params=None,
            cache_salt=request.salt or None,
            block_hasher=self._core.request_block_hasher,
        )

    def _missing(self, state: VllmRequest) -> tuple[int, int]:
        """Tokens of it that are not in the prefix cache, and those that it would take free blocks for."""
        blocks, cached, _ = self._scheduler.kv_cache_manager.get_computed_blocks(state)
        idle = sum(block.ref_cnt == 0 for block in blocks.blocks[0]) * self._block
        return state.num_tokens - cached, state.num_tokens - cached + idle

    def _progress(self, key: int, output: Any, draft: Sequence[int], seconds: float) -> StepResult:
        session = self._sessions[key]
        tokens = tuple(output.new_token_ids) if output else ()
        if not tokens and session.state.num_computed_tokens < session.state.num_tokens:
            return StepResult(key, (), session.unseen, seconds=seconds)
        accepted = next(
            (i for i, (token, guess) in enumerate(zip(tokens, draft, strict=False)) if token != guess),
            min(len(tokens), len(draft)),
        )
        return StepResult(
            session=key,
            tokens=tokens,
            num_uncomputed=session.unseen,
            nodes=len(draft),
            depth=len(draft),
            accepted=accepted,
            seconds=seconds,
            finish=self._finish(session, tokens),
            logprobs=_logprobs(output.new_logprobs, session.request.logprobs) if tokens else (),
        )

    def _finish(self, session: _Session, tokens: Sequence[int]) -> FinishReason | None:
        """What the worker's walk ended with, which tells tokens only."""
        if not tokens:
            return "length"  # a grammar that failed, as in choosing.py
        if constraint := session.constraint:
            for token in tokens:
                constraint.accept_token(token)
        if tokens[-1] in session.request.eos or (session.constraint and session.constraint.is_complete):
            return "stop"
        return "length" if session.output >= session.request.max_tokens else None


def _logprobs(lists: Any, alternatives: int) -> tuple[TokenLogprobs, ...]:
    if lists is None or alternatives < 0:
        return ()
    return tuple(
        TokenLogprobs(float(values[0]), ids[1 : 1 + alternatives].tolist(), values[1 : 1 + alternatives].tolist())
        for ids, values in zip(lists.logprob_token_ids, lists.logprobs, strict=True)
    )
