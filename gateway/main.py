"""`edgedraft gateway`: serves until SIGINT or SIGTERM, then drains."""

from __future__ import annotations

import gc
import sys

from edgedraft.observability.logs import configure_logging
from edgedraft.observability.tracing import TracingUnavailable, start_tracing
from edgedraft.serving.drain import Drain
from edgedraft.serving.server import serve
from edgedraft.wire import MAX_AGENT_FRAME
from gateway.app import build_app
from gateway.ledger import PricesError
from gateway.settings import GatewaySettings
from gateway.storage.database import SchemaError

AGENT_PING_SECONDS = 10.0


def main(settings: GatewaySettings) -> None:
    """Prints one line on stdout when it accepts requests. At shutdown running streams have --drain-grace to finish."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        app = build_app(settings, start_tracing(settings.otel, "edgedraft-gateway"))
    except (SchemaError, PricesError, TracingUnavailable, ValueError) as error:
        sys.exit(f"edgedraft gateway: {error}")
    _keep_loaded()
    drain: Drain = app.state.drain
    serve(
        app,
        settings.host,
        settings.port,
        _ready_line,
        MAX_AGENT_FRAME,
        AGENT_PING_SECONDS,
        drain.run,
        settings.keep_alive,
    )


def _ready_line(address: str) -> str:
    _keep_loaded()  # opening the database has loaded more
    return f"edgedraft gateway ready http://{address}"


def _keep_loaded() -> None:
    """What is loaded by now stays: full collections of it would hold the event loop for 25 ms each."""
    gc.collect()
    gc.freeze()
