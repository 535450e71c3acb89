"""`edgedraft verifier`: loads the target and serves it to gateways."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from edgedraft.observability.logs import configure_logging, event
from edgedraft.observability.tracing import TracingUnavailable, start_tracing
from edgedraft.serving.drain import Drain
from edgedraft.serving.server import is_loopback, serve
from edgedraft.wire import MAX_FRAME, ModelCard
from verifier.engine.interface import Engine
from verifier.scheduling.scheduler import SchedulerLimits
from verifier.settings import VerifierSettings

log = logging.getLogger(__name__)


def main(settings: VerifierSettings) -> None:
    """Runs until the drain after SIGINT or SIGTERM has ended. Exits 1 with a line on stderr if it cannot serve."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        tracing = start_tracing(settings.otel, "edgedraft-verifier")
    except TracingUnavailable as error:
        sys.exit(f"edgedraft verifier: {error}")
    limits = SchedulerLimits(
        step_tokens=settings.step_tokens,
        verify_nodes=settings.verify_nodes,
        prompt_delay=settings.prompt_delay,
        draft_wait=settings.draft_wait,
        wait_share=settings.wait_share,
        prompt_lookup=settings.prompt_lookup,
        max_waiting=settings.max_waiting,
        max_wait=settings.max_wait,
        max_sessions=settings.max_sessions,
    )
    if settings.engine == "transformers" and os.environ.get("RANK", "0") == "0":
        _check_door(settings)  # before the model is loaded, where it is known that this process will serve
    load = {"transformers": _load_transformers, "vllm": _load_vllm}[settings.engine]
    with load(settings) as loaded:
        if loaded is None:
            return  # this process was a worker of another verifier process, which has ended
        from verifier.server import build_app

        _check_door(settings)
        engine, card = loaded
        drain = Drain(settings.drain_grace)
        app = build_app(
            engine, limits, card, settings.places + settings.max_waiting, settings.verifier_token, tracing, drain
        )
        ready = "edgedraft verifier ready ws://{}".format
        serve(app, settings.host, settings.port, ready, MAX_FRAME, drain=drain.run)
    if app.state.engine_loop.broken:
        sys.exit("edgedraft verifier: the engine's thread broke")


def _check_door(settings: VerifierSettings) -> None:
    """Exits with 1 if strangers could use the model, unless that is allowed, which is logged."""
    if settings.verifier_token or is_loopback(settings.host):
        return
    if not settings.allow_unauthenticated:
        sys.exit(
            f"edgedraft verifier: {settings.host} is reached by others than this machine: set "
            "EDGEDRAFT_VERIFIER_TOKEN, or --allow-unauthenticated where the network lets only gateways in"
        )
    event(log, "without a token whoever reaches the port uses the model", level=logging.WARNING, host=settings.host)


@contextmanager
def _load_transformers(settings: VerifierSettings) -> Iterator[tuple[Engine, ModelCard] | None]:
    """The embedded engine, with tensor parallelism if torchrun has started several processes."""
    from edgedraft.runtime.packed_model import UnsupportedModel
    from verifier.engine.grammar import GrammarCache
    from verifier.engine.target import load_target
    from verifier.engine.tensor_parallel import join_ranks
    from verifier.engine.transformers_engine import TransformersEngine

    if settings.engine_args:
        sys.exit("edgedraft verifier: there is nothing to give the embedded engine after --")
    try:
        ranks = join_ranks(settings.device)
        model, card = load_target(settings, ranks)
    except (OSError, ValueError, UnsupportedModel) as error:
        sys.exit(f"edgedraft verifier: cannot serve {settings.model}: {error}")
    if ranks and not ranks.is_leader:
        ranks.follow(model)
        yield None
        return
    engine = TransformersEngine(model, card.vocab_size, card.context_length, settings.places, GrammarCache(card))
    if ranks:
        with ranks.lead():
            yield engine, card
    else:
        yield engine, card


@contextmanager
def _load_vllm(settings: VerifierSettings) -> Iterator[tuple[Engine, ModelCard] | None]:
    """The vLLM engine, on the processes and machines that vLLM's own arguments name."""
    from verifier.engine.on_vllm.start import VllmUnavailable, load

    if settings.attention != "gathered" or settings.cuda_graphs:
        sys.exit("edgedraft verifier: --attention and --cuda-graphs are the embedded engine's; vLLM chooses its own")
    try:
        loaded = load(settings)
    except VllmUnavailable as error:
        sys.exit(f"edgedraft verifier: {error}")
    except (OSError, ValueError) as error:
        sys.exit(f"edgedraft verifier: cannot serve {settings.model}: {error}")
    try:
        yield loaded
    finally:
        if loaded:
            loaded[0].shut_down()
