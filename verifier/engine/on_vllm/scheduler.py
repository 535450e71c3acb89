"""vLLM's scheduler, told what goes into a step: which sessions, how much of their text, and what was drafted for them.

Blocks, prefix cache, preemption and all that workers must be told stay vLLM's. Its interface is not public, which is
why start.py asks for the version that this was written for.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Part:
    """One request's part of a step: up to `rows` tokens of its text, and behind the last one these drafted tokens."""

    rows: int
    draft: tuple[int, ...] = ()


class ToldScheduler(Scheduler):
    """Schedules `told`, parts by request, and nothing else; `made` is what the last step held."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told: Mapping[str, Part] = {}
        self.made: SchedulerOutput | None = None
        self.num_spec_tokens = 0  # or vLLM fills short steps up with guesses that nobody made

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        for name, request in self.requests.items():
            part = self.told.get(name)
            # A request that runs and is not in the step sits it out, with its blocks.
            request.next_decode_eligible_step = self.current_step + 2 if part is None else 0
            request.spec_token_ids = list(part.draft) if part and self._decodes(request, part) else []
        # Those that decode come first, so that a prompt takes no more than was left to it.
        self.running.sort(key=lambda request: request.num_tokens - request.num_computed_tokens > 1)
        self.max_num_scheduled_tokens = sum(part.rows + len(part.draft) for part in self.told.values())
        held = [request for request in self.waiting if request.request_id not in self.told]
        self.waiting.remove_requests(held)
        try:
            self.made = super().schedule(throttle_prefills)
        finally:
            for request in reversed(held):
                self.waiting.prepend_request(request)
        return self.made

    def _decodes(self, request: Any, part: Part) -> bool:
        """Whether all of its text is in after these rows, so that something can be checked behind it."""
        return request.num_tokens - request.num_computed_tokens <= part.rows
