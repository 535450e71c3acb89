"""This engine, by itself: every session steps, prompts go in by chunks beside those that decode already."""

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
    return generating(engine, setup.step_tokens), f"steps of up to {setup.step_tokens} rows"


def generating(engine: Engine, step_tokens: int) -> Generate:
    """Whichever engine it is."""
    keys = count(1)

    def generate(prompts: list[list[int]], tokens: int) -> list[Output]:
        outputs: dict[int, list[int]] = {}
        unseen: dict[int, int] = {}
        for prompt in prompts:
            key = next(keys)
            outputs[key] = []
            # A salt of its own keeps a session from finding an earlier one's text: no other system may either.
            request = Request(key, tuple(prompt), Sampling(temperature=0), tokens, frozenset(), salt=str(key))
            unseen[key] = engine.open(request)
        while unseen:
            left, work = step_tokens, []
            for key in sorted(unseen, key=lambda key: unseen[key] > 1):
                rows = min(left, unseen[key])
                if rows:
                    work.append(ScheduledSession(key, rows))
                    left -= rows
            for made in engine.step(work):
                outputs[made.session].extend(made.tokens)
                unseen[made.session] = made.num_uncomputed
                if made.finish:
                    engine.close(made.session)
                    del unseen[made.session]
        return list(outputs.values())

    return generate


if __name__ == "__main__":
    serve(load)
