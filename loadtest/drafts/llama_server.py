"""llama.cpp's real server as a process of its own, on a loopback port: it can be killed, and started there again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class LlamaServerProcess:
    """A running server; `url` is its address."""

    def __init__(self, file: Path, slots: int = 4, kv_tokens: int = 8192, port: int = 0, key: str = "") -> None:
        words = [__file__, str(file), str(slots), str(kv_tokens), str(port), key]
        self._popen = subprocess.Popen(
            [sys.executable, "-P", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._popen.stdout is not None
        self.url = self._popen.stdout.readline().decode().strip()
        assert self.url, "the server ended before it listened"
        self.port = urlsplit(self.url).port or 0

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()


@contextmanager
def llama_server(file: Path, slots: int = 4, kv_tokens: int = 8192, key: str = "") -> Iterator[LlamaServerProcess]:
    """Start a server with `slots` slots that share `kv_tokens`, and kill it at the end."""
    server = LlamaServerProcess(file, slots, kv_tokens, key=key)
    try:
        yield server
    finally:
        server.kill()


def serve(file: str, slots: int, kv_tokens: int, port: int, key: str) -> None:
    """Serve until the process is killed; prints the address."""
    xllamacpp: Any = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path, params.port = file, port
    params.n_ctx, params.n_parallel, params.kv_unified = kv_tokens, slots, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_gpu_layers, params.cache_ram_mib, params.ui, params.verbosity = 0, 0, False, -1
    if key:
        params.api_keys = [key]
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
