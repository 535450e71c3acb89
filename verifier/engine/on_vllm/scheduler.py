"""A subclass of vLLM's scheduler that schedules a given step: requests, tokens of each, and draft tokens to verify.

Blocks, prefix cache, preemption and the messages to workers stay vLLM's. Its scheduler is not a public interface, so
start.py requires the vLLM version that this was written for.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class RequestStep:
    """One request's part of a step: up to `num_tokens` tokens of its text and, after the last one, a draft."""

    num_tokens: int
    draft_token_ids: tuple[int, ...] = ()


class StepScheduler(Scheduler):
    """Schedules the requests of `next_step` and no others; `last_output` is what the last step contained."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.next_step: Mapping[str, RequestStep] = {}
        self.last_output: SchedulerOutput | None = None
        self.num_spec_tokens = 0  # else vLLM pads short drafts with placeholder tokens

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        for request_id, request in self.requests.items():
            part = self.next_step.get(request_id)
            # A running request that is not in the step skips it and keeps its blocks.
            request.next_decode_eligible_step = self.current_step + 2 if part is None else 0
            request.spec_token_ids = list(part.draft_token_ids) if part and self._completes_text(request, part) else []
        # Decoding requests come first, so that a prompt gets only the remaining tokens.
        self.running.sort(key=lambda request: request.num_tokens - request.num_computed_tokens > 1)
        self.max_num_scheduled_tokens = sum(
            part.num_tokens + len(part.draft_token_ids) for part in self.next_step.values()
        )
        held = [request for request in self.waiting if request.request_id not in self.next_step]
        self.waiting.remove_requests(held)
        try:
            self.last_output = super().schedule(throttle_prefills)
        finally:
            for request in reversed(held):
                self.waiting.prepend_request(request)
        return self.last_output

    def _completes_text(self, request: Any, part: RequestStep) -> bool:
        """Whether the request's complete text is computed after this step, so that a draft can be verified after it."""
        return request.num_tokens - request.num_computed_tokens <= part.num_tokens
