"""A verifier's server in a thread of this process, on a real socket, over any engine."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from edgedraft.serving.server import server_config
from edgedraft.wire import MAX_FRAME, ModelCard
from verifier.engine.interface import Engine
from verifier.scheduling.scheduler import SchedulerLimits
from verifier.server import build_app

IDLE_SECONDS = 60.0  # for sessions of closed links to end


class RunningVerifier:
    """The server's address and what it runs."""

    def __init__(self, engine: Engine, limits: SchedulerLimits, card: ModelCard, max_sessions: int, token: str) -> None:
        self.app = build_app(engine, limits, card, max_sessions + limits.max_waiting, token)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = uvicorn.Server(server_config(self.app, MAX_FRAME, 20.0, 1))
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def wait_idle(self) -> None:
        """Wait until no session is open: a link's sessions end some time after the link."""
        deadline = time.monotonic() + IDLE_SECONDS
        while self.app.state.engine_loop.busy:
            assert time.monotonic() < deadline, "sessions of a closed link are still open"
            time.sleep(0.002)


@contextmanager
def running(
    engine: Engine, limits: SchedulerLimits, card: ModelCard, max_sessions: int, token: str = ""
) -> Iterator[RunningVerifier]:
    server = RunningVerifier(engine, limits, card, max_sessions, token)
    server.start()
    yield server
    server.stop()
