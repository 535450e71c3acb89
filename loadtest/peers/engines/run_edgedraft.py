"""This engine alone: prompts are computed in chunks, together with the sessions that decode already."""

from __future__ import annotations

from itertools import count

from runner import Generate, Output, Setup, serve

from edgedraft.wire import Sampling
from verifier.engine.interface import Engine, Request, ScheduledSession
from verifier.engine.target import load_target
from verifier.engine.transformers_engine import TransformersEngine
from verifier.settings import VerifierSettings


def load(setup: Setup) -> tuple[Generate, str]:
    settings = VerifierSettings.model_validate(
        {
            "model": setup.model,
            "dtype": setup.dtype,
            "device": "cpu",
            "threads": setup.threads,
            "kv_tokens": setup.sessions * setup.context,
        }
    )
    model, card = load_target(settings)
    engine = TransformersEngine(model, card.vocab_size, card.context_length, setup.sessions)
    return make_generate(engine, setup.step_tokens), f"steps of up to {setup.step_tokens} rows"


def make_generate(engine: Engine, step_tokens: int) -> Generate:
    """Generation by any engine of this interface."""
    keys = count(1)

    def generate(prompts: list[list[int]], tokens: int) -> list[Output]:
        outputs: dict[int, list[int]] = {}
        uncomputed: dict[int, int] = {}
        for prompt in prompts:
            key = next(keys)
            outputs[key] = []
            # A unique salt keeps sessions from hitting the prefix cache, as in all other systems.
            request = Request(key, tuple(prompt), Sampling(temperature=0), tokens, frozenset(), salt=str(key))
            uncomputed[key] = engine.open(request)
        while uncomputed:
            left, work = step_tokens, []
            for key in sorted(uncomputed, key=lambda key: uncomputed[key] > 1):
                rows = min(left, uncomputed[key])
                if rows:
                    work.append(ScheduledSession(key, rows))
                    left -= rows
            for result in engine.step(work):
                outputs[result.session].extend(result.tokens)
                uncomputed[result.session] = result.num_uncomputed
                if result.finish:
                    engine.close(result.session)
                    del uncomputed[result.session]
        return list(outputs.values())

    return generate


if __name__ == "__main__":
    serve(load)
