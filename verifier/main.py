"""`edgedraft verifier`: load the target, then serve it to gateways."""

from __future__ import annotations

import sys
from contextlib import nullcontext

from edgedraft.paged import UnsupportedModel
from edgedraft.serving import serve
from edgedraft.settings import VerifierSettings
from edgedraft.telemetry import configure_logging
from edgedraft.tracing import TracingUnavailable, start_tracing
from edgedraft.wire import MAX_FRAME
from verifier.drain import Drain
from verifier.grammar import Grammars
from verifier.scheduler import Limits
from verifier.server import build_app
from verifier.target import load_target
from verifier.tensor_parallel import join
from verifier.transformers_engine import TransformersEngine


def main(settings: VerifierSettings) -> None:
    """Runs until SIGINT or SIGTERM and the drain after it. Exits 1 with a line on stderr when it cannot serve."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        tracing = start_tracing(settings.otel, "edgedraft-verifier")
        ranks = join(settings.device)
        model, card = load_target(settings, ranks)
    except TracingUnavailable as error:
        sys.exit(f"edgedraft verifier: {error}")
    except (OSError, ValueError, UnsupportedModel) as error:
        sys.exit(f"edgedraft verifier: cannot serve {settings.model}: {error}")
    if ranks and not ranks.leads:
        ranks.follow(model)
        return
    engine = TransformersEngine(model, card.vocab_size, card.context_length, settings.max_sessions, Grammars(card))
    limits = Limits(
        step_tokens=settings.step_tokens,
        verify_nodes=settings.verify_nodes,
        prompt_delay=settings.prompt_delay,
        draft_wait=settings.draft_wait,
        wait_share=settings.wait_share,
        prompt_lookup=settings.prompt_lookup,
        max_waiting=settings.max_waiting,
        max_wait=settings.max_wait,
    )
    drain = Drain(settings.drain_grace)
    app = build_app(
        engine, limits, card, settings.max_sessions + settings.max_waiting, settings.verifier_token, tracing, drain
    )
    ready = "edgedraft verifier ready ws://{}".format
    with ranks.leading() if ranks else nullcontext():
        serve(app, settings.host, settings.port, ready, MAX_FRAME, drain=drain.run)
    if app.state.engine_loop.broken:
        sys.exit("edgedraft verifier: the engine's thread broke")
