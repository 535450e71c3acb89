"""`edgedraft up`: verifier, gateway and agent on this machine, with the demo models; ends them all together."""

from __future__ import annotations

import os
import secrets
import signal
import sys

from rich.console import Console

from edgedraft.demo_model import resolve_model
from edgedraft.settings import UpSettings
from edgedraft.stack import Stack, StartError
from edgedraft.telemetry import configure_logging


def main(settings: UpSettings) -> None:
    """Runs until Ctrl-C, SIGTERM or the end of one of the processes."""
    configure_logging(settings.log_level, settings.log_format)
    key = settings.key or f"ed-{secrets.token_urlsafe(24)}"
    threads = str(max(1, (os.cpu_count() or 2) // 2))  # verifier and agent share this machine
    logs = ("--log-level", settings.log_level, "--log-format", settings.log_format)
    shared = ("--dtype", settings.dtype, "--threads", threads, *logs)
    quiet = Console(stderr=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        resolve_model(settings.model)  # fetched here, once, with its progress on this terminal
        with Stack(key) as stack:
            quiet.print("starting the verifier ...")
            verifier = stack.verifier("--model", settings.model, *shared)
            stack.gateway(verifier.address, flags=("--port", str(settings.port), *logs))
            stack.wait_served()
            if settings.agent:
                quiet.print("attaching an agent ...")
                stack.agent("--draft-model", settings.draft_model, *shared)
            _tell(stack.url, key)
            ended = stack.wait()
            sys.exit(f"edgedraft up: {ended.words[0]} ended with status {ended.process.returncode}")
    except StartError as error:
        sys.exit(f"edgedraft up: {error}")
    except KeyboardInterrupt:
        quiet.print("stopped")


def _tell(url: str, key: str) -> None:
    print(
        f"\nEdgeDraft is up.\n\n  base URL  {url}/v1\n  API key   {key}\n\n"
        f"  attach another desktop:  edgedraft attach {url} --key {key}\n"
        "  stop:                    Ctrl-C\n",
        flush=True,
    )
