"""Tensor parallelism: a target model split over several devices, whose ranks compute every forward at the same time.

Ranks are processes of `edgedraft verifier` started by torchrun. transformers shards the layers by the plan that comes
with a model; its collectives run inside the forward. Rank 0, the leader, is the verifier: it serves, schedules, manages
the KV cache's blocks and samples. It broadcasts each forward's rows and their blocks to the other ranks, which compute
them and decide nothing, so no two ranks can disagree.

A rank that loses another one, or waits too long for it, exits at once, because a part of every layer is then missing.
Gateways continue the sessions on another verifier.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

import msgspec
import torch
import torch.distributed as dist
from msgspec import Struct
from transformers import AutoConfig, PreTrainedConfig
from transformers.distributed.configuration_utils import DistributedConfig

from edgedraft.runtime.block_manager import BlockManager, BlockTable
from edgedraft.runtime.device import pick_device
from edgedraft.runtime.packed_model import PackedModel, SequenceRows

log = logging.getLogger(__name__)

LOAD_TIMEOUT_SECONDS = 3600.0  # for all ranks to load: they read from disks and networks of different speed
KEEPALIVE_SECONDS = 5.0  # between keepalives of rank 0
RANK_TIMEOUT_SECONDS = 60.0  # without a call before rank 0 counts as lost
FORWARD_TIMEOUT_SECONDS = 180.0  # after which a forward counts as stuck
FIRST_BROADCAST_BYTES = 4096  # of a call; a longer one takes a second broadcast
LENGTH_PREFIX_BYTES = 4
MAX_CALL_BYTES = 1 << 28


class ForwardJob(Struct, frozen=True, array_like=True):
    """A SequenceRows as it is broadcast: `length` and `blocks` stand for its block table."""

    length: int
    blocks: list[int]
    tokens: list[int]
    parents: list[int] | None
    logit_rows: list[int]


class ForwardCall(Struct, frozen=True, tag="forward", array_like=True):
    """Copy KV cache slots (`moves`: source, destination), then compute a forward."""

    moves: list[tuple[list[int], list[int]]]
    jobs: list[ForwardJob]


class KeepAlive(Struct, frozen=True, tag="alive", array_like=True):
    """Tells the other ranks that rank 0 is alive."""


class Shutdown(Struct, frozen=True, tag="end", array_like=True):
    """Rank 0 shuts down."""


Call = ForwardCall | KeepAlive | Shutdown

_call_decoder: msgspec.msgpack.Decoder[Call] = msgspec.msgpack.Decoder(Call)  # type: ignore[arg-type]


class RankGroup:
    """This process's rank and the channel on which rank 0 broadcasts its calls."""

    def __init__(self, device: torch.device) -> None:
        """Creates two process groups: the default one for the model's collectives, and one for calls."""
        backend = dist.get_default_backend_for_device(device)
        bound = device if device.type == "cuda" else None
        dist.init_process_group(backend, timeout=timedelta(seconds=LOAD_TIMEOUT_SECONDS), device_id=bound)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = device
        calls = dist.new_group(backend="gloo", timeout=timedelta(seconds=RANK_TIMEOUT_SECONDS))
        assert isinstance(calls, dist.ProcessGroup)  # it is an int in processes outside the group
        self._calls = calls
        self._lock = threading.Lock()  # one call at a time, including its forward
        self._ended = threading.Event()

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    def wait_until_loaded(self) -> None:
        """Wait until every rank has loaded its shard, so that none waits for it inside a forward.

        From here on only rank 0 handles SIGTERM and SIGINT; the other ranks shut down with it.
        """
        if not self.is_leader:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)  # torchrun sends it to all ranks
        with exit_on_failure(LOAD_TIMEOUT_SECONDS + RANK_TIMEOUT_SECONDS):
            dist.monitored_barrier(self._calls, timeout=timedelta(seconds=LOAD_TIMEOUT_SECONDS))

    @contextmanager
    def broadcast_call(self, call: ForwardCall) -> Iterator[None]:
        """Rank 0: the other ranks execute `call` while this one executes the body."""
        with self._lock, exit_on_failure():
            self._broadcast(call)
            yield

    @contextmanager
    def lead(self) -> Iterator[None]:
        """Rank 0, while it serves: sends keepalives, and shuts the other ranks down at the end."""

        def end(number: int, _: FrameType | None) -> None:
            self._shut_down()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)  # uvicorn raises the signal again after shutdown
        threading.Thread(target=self._send_keepalives, name="ranks", daemon=True).start()
        try:
            yield
        finally:
            self._shut_down()

    def follow(self, model: PackedModel) -> None:
        """Every other rank: execute calls until rank 0 shuts down."""
        log.info("rank %d of %d follows", self.rank, self.size)
        while True:
            with exit_on_failure():
                call = self._receive_call()
            match call:
                case ForwardCall(moves, jobs):
                    with exit_on_failure():
                        for source, destination in moves:
                            model.block_manager.copy_slots(source, destination)
                        run_forward(model, [_from_job(model.block_manager, job) for job in jobs])
                case Shutdown():
                    with exit_on_failure():
                        dist.destroy_process_group()
                    return

    def _shut_down(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # already shutting down
        with self._lock, exit_on_failure():
            self._ended.set()
            self._broadcast(Shutdown())
            dist.destroy_process_group()

    def _send_keepalives(self) -> None:
        while not self._ended.wait(KEEPALIVE_SECONDS):
            with self._lock:
                if not self._ended.is_set():
                    with exit_on_failure():
                        self._broadcast(KeepAlive())

    def _broadcast(self, call: Call) -> None:
        data = msgspec.msgpack.encode(call)
        if len(data) > MAX_CALL_BYTES:
            raise ValueError(f"a call of {len(data)} bytes")
        data = len(data).to_bytes(LENGTH_PREFIX_BYTES, "little") + data
        for part in (data[:FIRST_BROADCAST_BYTES].ljust(FIRST_BROADCAST_BYTES, b"\0"), data[FIRST_BROADCAST_BYTES:]):
            if part:
                dist.broadcast(torch.frombuffer(bytearray(part), dtype=torch.uint8), 0, group=self._calls)

    def _receive_call(self) -> Call:
        data = self._receive(FIRST_BROADCAST_BYTES)
        size = int.from_bytes(data[:LENGTH_PREFIX_BYTES], "little")
        if size > MAX_CALL_BYTES:
            raise ValueError(f"a call of {size} bytes")
        if (missing := LENGTH_PREFIX_BYTES + size - FIRST_BROADCAST_BYTES) > 0:
            data += self._receive(missing)
        return _call_decoder.decode(data[LENGTH_PREFIX_BYTES : LENGTH_PREFIX_BYTES + size])

    def _receive(self, size: int) -> bytes:
        part = torch.empty(size, dtype=torch.uint8)
        dist.broadcast(part, 0, group=self._calls)
        return part.numpy().tobytes()


class LeaderModel(PackedModel):
    """Rank 0's packed model: each forward is broadcast to the other ranks. Wraps a PackedModel that is ready to run."""

    def __init__(self, packed: PackedModel, ranks: RankGroup) -> None:
        self.model, self.device, self.dtype = packed.model, packed.device, packed.dtype
        self.block_manager = self._recorder = _LeaderBlockManager(packed.block_manager)
        self._packed = packed
        self._ranks = ranks

    def forward(self, sequences: Sequence[SequenceRows]) -> torch.Tensor:
        for rows in sequences:
            rows.block_table.reserve_slots(rows.num_slots)  # raises OutOfBlocks before anything is broadcast
        call = ForwardCall(self._recorder.moves, [_to_job(rows) for rows in sequences])
        self._recorder.moves = []
        with self._ranks.broadcast_call(call):
            return run_forward(self._packed, sequences)


class _LeaderBlockManager(BlockManager):
    """Manages rank 0's blocks and records copied slots in `moves`, for the other ranks to repeat.

    The tensors are those of `storage`, the block manager of the wrapped model.
    """

    def __init__(self, storage: BlockManager) -> None:
        super().__init__(storage.num_tokens, storage.dtype, storage.device)
        self._storage = storage
        self.moves: list[tuple[list[int], list[int]]] = []

    @property
    def num_layers(self) -> int:
        return self._storage.num_layers

    def copy_slots(self, source: Sequence[int], destination: Sequence[int]) -> None:
        self.moves.append((list(source), list(destination)))
        self._storage.copy_slots(source, destination)


class _ReceivedBlockTable(BlockTable):
    """A block table as received from rank 0."""

    def __init__(self, block_manager: BlockManager, length: int, blocks: list[int]) -> None:
        super().__init__(block_manager)
        self._blocks = blocks
        self.length = length


def _to_job(rows: SequenceRows) -> ForwardJob:
    return ForwardJob(
        length=rows.block_table.length,
        blocks=rows.block_table.blocks(rows.num_slots),
        tokens=list(rows.tokens),
        parents=None if rows.parents is None else list(rows.parents),
        logit_rows=list(rows.logit_rows),
    )


def _from_job(block_manager: BlockManager, job: ForwardJob) -> SequenceRows:
    block_table = _ReceivedBlockTable(block_manager, job.length, job.blocks)
    return SequenceRows(block_table, job.tokens, job.parents, job.logit_rows)


def run_forward(model: PackedModel, sequences: Sequence[SequenceRows]) -> torch.Tensor:
    """A forward, waiting for the GPU, so that exit_on_failure's timeout covers waiting for other ranks."""
    logits = model.forward(sequences)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return logits


def join_ranks(device: str) -> RankGroup | None:
    """Join the ranks that torchrun started with this one; None for a single process. `device` is the setting.

    Raises ValueError for an invalid environment or device, OSError when the ranks cannot connect to each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size <= 1:
        return None
    if missing := {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} - os.environ.keys():
        raise ValueError(f"WORLD_SIZE is {size}, but there is no {' and no '.join(sorted(missing))}: use torchrun")
    kind, local = pick_device("auto").type, int(os.environ["LOCAL_RANK"])
    if kind == "mps" or device not in ("auto", kind):
        raise ValueError(f"ranks run on GPUs where there are any, else on the CPU: not on {device} beside {kind}")
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(f"there are {torch.cuda.device_count()} GPUs here, and this is local rank {local}")
        torch.cuda.set_device(local)
    try:
        return RankGroup(torch.device(kind, local) if kind == "cuda" else torch.device(kind))
    except dist.DistError as error:
        raise OSError(f"the ranks do not find each other: {error}") from error


def distributed_config(path: str, size: int) -> DistributedConfig:
    """transformers' configuration to load one of `size` shards. Raises ValueError as check_shardable does."""
    check_shardable(AutoConfig.from_pretrained(path), size)
    try:
        return DistributedConfig(tp_size=size)
    except TypeError as error:
        raise ValueError("several ranks need transformers 5.13 or newer") from error


def check_shardable(config: PreTrainedConfig, size: int) -> None:
    """Raises ValueError, with the reason, for a model that cannot be split into `size` shards."""
    text = config.get_text_config()
    plan: dict[str, str] | None = text.base_model_tp_plan
    if not plan:
        raise ValueError(f"transformers has no tensor-parallel plan for {text.model_type}: it runs on one device")
    if not any("att" in layer and style == "colwise" for layer, style in plan.items()):
        return  # attention is not sharded
    heads = int(text.num_attention_heads)
    key_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    if heads % size or key_heads % size:
        able = [str(n) for n in range(1, key_heads + 1) if heads % n == key_heads % n == 0]
        raise ValueError(
            f"{heads} attention and {key_heads} key heads do not divide by {size} ranks: it runs on {' or '.join(able)}"
        )


@contextmanager
def exit_on_failure(seconds: float = FORWARD_TIMEOUT_SECONDS) -> Iterator[None]:
    """Exit the process when the body raises or takes longer than `seconds`, logging where it was.

    For everything that involves all ranks: a rank that fails must not leave the others waiting.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    except Exception:
        log.critical("the ranks cannot go on exit_on_failure; this one ends", exc_info=True)
        os._exit(1)
    finally:
        faulthandler.cancel_dump_traceback_later()
