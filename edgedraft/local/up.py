"""`edgedraft up`: runs verifiers, gateways and agents on this machine, by default with the demo models."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from edgedraft import __version__
from edgedraft.child_process import program_environment, python_command
from edgedraft.draft_manifest import MANIFEST_FILE, RUNTIME_FOLDER
from edgedraft.local.browser_runtime import browser_folder, has_runtime
from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from edgedraft.local.fleet import Fleet, replica_environment
from edgedraft.local.processes import StartError, Supervisor
from edgedraft.local.settings import UpSettings
from edgedraft.local.valkey import Valkey, ValkeyUnavailable
from edgedraft.observability.logs import configure_logging


def main(settings: UpSettings) -> None:
    """Runs until Ctrl-C, SIGTERM or the end of any of the processes. Exits with 1 if one cannot start or ends."""
    configure_logging(settings.log_level, settings.log_format)
    key = settings.key or f"ed-{secrets.token_urlsafe(24)}"
    agents = settings.agents if settings.agent else 0
    # All processes share the CPUs of this machine.
    threads = str(max(1, (os.cpu_count() or 2) // (settings.verifiers + max(1, agents))))
    logs = ("--log-level", settings.log_level, "--log-format", settings.log_format)
    shared = ("--dtype", settings.dtype, "--threads", threads, *logs)
    quiet = Console(stderr=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        resolve_model(settings.model)  # downloaded here, once, with progress on this terminal
        drafts = _offered_drafts(settings, quiet)
        gateway_flags = (*logs, *(("--browser-drafts", str(drafts)) if drafts else ()))
        with ExitStack() as exit_stack:
            env = _environment(settings, exit_stack)
            stack = exit_stack.enter_context(Supervisor(key, env=env))
            quiet.print(f"starting {_count(settings.verifiers, 'verifier')} ...")
            fleet = Fleet.start(
                stack,
                settings.gateways,
                settings.verifiers,
                port=settings.port,
                verifier_flags=("--model", settings.model, *shared),
                gateway_flags=gateway_flags,
            )
            if agents:
                quiet.print(f"attaching {_count(agents, 'agent')} ...")
                name_prefix = platform.node() if agents > 1 else ""
                fleet.attach_agents(agents, ("--draft-model", settings.draft_model, *shared), name_prefix=name_prefix)
            _print_urls(fleet.urls, key, drafts)
            ended = stack.wait_any_exit()
            sys.exit(f"edgedraft up: {ended.arguments[0]} ended with status {ended.popen.returncode}")
    except (StartError, ValkeyUnavailable) as error:
        sys.exit(f"edgedraft up: {error}")
    except KeyboardInterrupt:
        quiet.print("stopped")


def _environment(settings: UpSettings, exit_stack: ExitStack) -> dict[str, str]:
    """Environment of the processes. Starts a Valkey if gateways need one. Raises ValkeyUnavailable."""
    if settings.gateways == 1 and not settings.redis:
        return {"EDGEDRAFT_DATABASE": settings.database}
    redis = settings.redis or exit_stack.enter_context(Valkey()).url
    return replica_environment(redis, settings.database)


def _offered_drafts(settings: UpSettings, quiet: Console) -> Path | None:
    """The folder of drafts that other devices may fetch: with the demo's, which is exported once where it can be."""
    folder = browser_folder()
    draft = folder / f"{DEMO_MODEL}-{__version__}"
    is_exported = (draft / MANIFEST_FILE).is_file()
    if settings.browser_drafts:
        return settings.browser_drafts
    if settings.model != DEMO_MODEL or not (is_exported or has_runtime(folder) or find_spec("onnx")):
        return None
    if not is_exported:
        for older in folder.glob(f"{DEMO_MODEL}-*"):
            shutil.rmtree(older)
        quiet.print("exporting the draft model for other devices ...")
        command = python_command("edgedraft.cli", "draft", "export", "--onnx", str(draft))
        done = subprocess.run(
            command,
            env=program_environment("draft"),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            quiet.print(f"other devices cannot fetch it: {done.stderr.strip()[-1000:]}")
            return None
    return folder


def _count(number: int, what: str) -> str:
    return f"the {what}" if number == 1 else f"{number} {what}s"


def _print_urls(urls: list[str], key: str, drafts: Path | None) -> None:
    bases = "".join(f"  base URL  {url}/v1\n" for url in urls)
    fetch = f"  without PyTorch, first:  EDGEDRAFT_KEY={key} edgedraft draft fetch {urls[0]}\n"
    in_browser = drafts and (drafts / RUNTIME_FOLDER).is_dir()
    browser = f"{urls[0]}/attach" if in_browser else "edgedraft browser fetch, then start again"
    print(
        f"\nEdgeDraft is up.\n\n{bases}  API key   {key}\n\n"
        f"  attach another desktop:  EDGEDRAFT_KEY={key} edgedraft attach {urls[0]}\n{fetch if drafts else ''}"
        f"  draft with a browser:    {browser}\n"
        "  stop:                    Ctrl-C\n",
        flush=True,
    )
