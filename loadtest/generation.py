"""Plain decoding of many requests with an engine in this process, to record the target's texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from verifier.engine.interface import Engine, Request, ScheduledSession

STEP_TOKENS = 512


def generate_texts(
    engine: Engine, requests: Iterable[Request], concurrency: int, finished: Callable[[], None] = lambda: None
) -> dict[int, list[int]]:
    """Returns the output token ids of every request by its session id. `finished` is called after each request.

    At most `concurrency` requests run at once, in steps of at most STEP_TOKENS rows, decoding sessions first.
    """
    texts: dict[int, list[int]] = {}
    uncomputed: dict[int, int] = {}
    waiting = list(requests)
    while waiting or uncomputed:
        while waiting and len(uncomputed) < concurrency:
            request = waiting.pop(0)
            texts[request.session] = []
            uncomputed[request.session] = engine.open(request)
        for result in engine.step(_schedule(uncomputed)):
            texts[result.session] += result.tokens
            uncomputed[result.session] = result.num_uncomputed
            if result.finish:
                del uncomputed[result.session]
                engine.close(result.session)
                finished()
    return texts


def _schedule(uncomputed: dict[int, int]) -> list[ScheduledSession]:
    left, scheduled = STEP_TOKENS, []
    for key in sorted(uncomputed, key=lambda key: uncomputed[key] > 1):
        if rows := min(left, uncomputed[key]):
            scheduled.append(ScheduledSession(key, rows))
            left -= rows
    return scheduled
