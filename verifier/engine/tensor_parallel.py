"""A target model over several devices: every rank holds a slice of each layer, and all compute each forward together.

Ranks are processes of `edgedraft verifier` that torchrun starts. transformers cuts the layers by the plan that comes
with a model, and its collectives run inside the forward. Rank 0 is the verifier: it serves, schedules, keeps the books
of the KV cache and chooses. The others follow: they are told the rows of each forward and where they lie in the cache,
and that is all they know. So there is nothing that two ranks could decide differently.

Whoever loses a rank, or waits too long for one, ends at once: its slice is missing from every layer, and gateways
open the sessions of a verifier that is gone elsewhere.
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

MEET_SECONDS = 3600.0  # until all have loaded: slices come from disks and networks of different speed
ALIVE_SECONDS = 5.0  # rank 0 is heard this often, also when it has nothing to do
SILENCE_SECONDS = 60.0  # a rank that is not heard for so long is lost
STUCK_SECONDS = 180.0  # a forward that takes so long will not end
HEAD_BYTES = 4096  # of a call; one that is longer takes a second broadcast
SIZE_BYTES = 4
MAX_CALL = 1 << 28  # bytes


class Job(Struct, frozen=True, array_like=True):
    """A paged.Rows; its sequence is `length` tokens in `blocks`."""

    length: int
    blocks: list[int]
    tokens: list[int]
    parents: list[int] | None
    wanted: list[int]


class Forward(Struct, frozen=True, tag="forward", array_like=True):
    """Move slots of the cache, then compute."""

    moves: list[tuple[list[int], list[int]]]
    jobs: list[Job]


class Alive(Struct, frozen=True, tag="alive", array_like=True):
    """Nothing to do."""


class End(Struct, frozen=True, tag="end", array_like=True):
    """The verifier ends."""


Call = Forward | Alive | End

_decoder: msgspec.msgpack.Decoder[Call] = msgspec.msgpack.Decoder(Call)  # type: ignore[arg-type]


class Ranks:
    """This process's place among the ranks, and the channel on which rank 0 calls the others."""

    def __init__(self, device: torch.device) -> None:
        """Takes part in setting up both groups: the model's collectives run in the default one."""
        backend = dist.get_default_backend_for_device(device)
        bound = device if device.type == "cuda" else None
        dist.init_process_group(backend, timeout=timedelta(seconds=MEET_SECONDS), device_id=bound)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = device
        calls = dist.new_group(backend="gloo", timeout=timedelta(seconds=SILENCE_SECONDS))
        assert isinstance(calls, dist.ProcessGroup)  # an int where this rank is not of the group
        self._calls = calls
        self._lock = threading.Lock()  # one call at a time, with all that follows from it
        self._ended = threading.Event()

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def meet(self) -> None:
        """Wait until every rank has loaded its slices, so that none waits inside a forward.

        From here on it is rank 0 that tells the others to end.
        """
        if not self.leads:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)  # torchrun sends them to all, and rank 0 may be in a forward
        with together(MEET_SECONDS + SILENCE_SECONDS):
            dist.monitored_barrier(self._calls, timeout=timedelta(seconds=MEET_SECONDS))

    @contextmanager
    def calling(self, call: Forward) -> Iterator[None]:
        """Rank 0: the others do `call` while this one does what is inside."""
        with self._lock, together():
            self._tell(call)
            yield

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Rank 0, while it serves: the others know that it lives, and end when it does."""

        def end(number: int, _: FrameType | None) -> None:
            self._end()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)  # a server that was ended by a signal raises it once more when it is done
        threading.Thread(target=self._be_heard, name="ranks", daemon=True).start()
        try:
            yield
        finally:
            self._end()

    def follow(self, model: PackedModel) -> None:
        """Every other rank: do as called, until rank 0 ends."""
        log.info("rank %d of %d follows", self.rank, self.size)
        while True:
            with together():
                call = self._told()
            match call:
                case Forward(moves, jobs):
                    with together():
                        for source, destination in moves:
                            model.block_manager.copy_slots(source, destination)
                        computed(model, [_rows(model.block_manager, job) for job in jobs])
                case End():
                    with together():
                        dist.destroy_process_group()
                    return

    def _end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it is ending already
        with self._lock, together():
            self._ended.set()
            self._tell(End())
            dist.destroy_process_group()

    def _be_heard(self) -> None:
        while not self._ended.wait(ALIVE_SECONDS):
            with self._lock:
                if not self._ended.is_set():
                    with together():
                        self._tell(Alive())

    def _tell(self, call: Call) -> None:
        data = msgspec.msgpack.encode(call)
        if len(data) > MAX_CALL:
            raise ValueError(f"a call of {len(data)} bytes")
        data = len(data).to_bytes(SIZE_BYTES, "little") + data
        for part in (data[:HEAD_BYTES].ljust(HEAD_BYTES, b"\0"), data[HEAD_BYTES:]):
            if part:
                dist.broadcast(torch.frombuffer(bytearray(part), dtype=torch.uint8), 0, group=self._calls)

    def _told(self) -> Call:
        data = self._received(HEAD_BYTES)
        size = int.from_bytes(data[:SIZE_BYTES], "little")
        if size > MAX_CALL:
            raise ValueError(f"a call of {size} bytes")
        if (missing := SIZE_BYTES + size - HEAD_BYTES) > 0:
            data += self._received(missing)
        return _decoder.decode(data[SIZE_BYTES : SIZE_BYTES + size])

    def _received(self, size: int) -> bytes:
        part = torch.empty(size, dtype=torch.uint8)
        dist.broadcast(part, 0, group=self._calls)
        return part.numpy().tobytes()


class LeadingModel(PackedModel):
    """Rank 0's packed model: what it computes, the others compute too.

    It adds nothing to a PackedModel that is ready but the calls, and the books of the cache, which it alone keeps.
    """

    def __init__(self, packed: PackedModel, ranks: Ranks) -> None:
        self.model, self.device, self.dtype = packed.model, packed.device, packed.dtype
        self.kv = self._books = _Books(packed.block_manager)
        self._packed = packed
        self._ranks = ranks

    def forward(self, jobs: Sequence[SequenceRows]) -> torch.Tensor:
        for job in jobs:
            job.blocks.reserve_slots(len(job.tokens))  # raises while nobody has been called
        call = Forward(self._books.moves, [_job(job) for job in jobs])
        self._books.moves = []
        with self._ranks.calling(call):
            return computed(self._packed, jobs)


class _Books(BlockManager):
    """Who holds which blocks of `held`, and the moves in it that the other ranks have not made yet."""

    def __init__(self, held: BlockManager) -> None:
        super().__init__(held.num_tokens, held.dtype, held.device)
        self._held = held
        self.moves: list[tuple[list[int], list[int]]] = []

    @property
    def num_layers(self) -> int:
        return self._held.num_layers

    def copy_slots(self, source: Sequence[int], destination: Sequence[int]) -> None:
        self.moves.append((list(source), list(destination)))
        self._held.copy_slots(source, destination)


class _Placed(BlockTable):
    """A sequence that lies where rank 0 has put it."""

    def __init__(self, kv: BlockManager, length: int, blocks: list[int]) -> None:
        super().__init__(kv)
        self._blocks = blocks
        self.length = length


def _job(rows: SequenceRows) -> Job:
    return Job(
        length=rows.blocks.length,
        blocks=rows.blocks.blocks(len(rows.tokens)),
        tokens=list(rows.tokens),
        parents=None if rows.parents is None else list(rows.parents),
        wanted=list(rows.logit_rows),
    )


def _rows(kv: BlockManager, job: Job) -> SequenceRows:
    return SequenceRows(_Placed(kv, job.length, job.blocks), job.tokens, job.parents, job.wanted)


def computed(model: PackedModel, jobs: Sequence[SequenceRows]) -> torch.Tensor:
    """A forward to its end: a GPU that waits for another rank's is stuck here, where the time is taken."""
    logits = model.forward(jobs)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return logits


def join(device: str) -> Ranks | None:
    """Meet the ranks that were started with this one; None for a process that is alone. `device` is a setting.

    Raises ValueError for ranks that cannot run as they were started, OSError for ranks that do not find each other.
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
        return Ranks(torch.device(kind, local) if kind == "cuda" else torch.device(kind))
    except dist.DistError as error:
        raise OSError(f"the ranks do not find each other: {error}") from error


def sharding(path: str, size: int) -> DistributedConfig:
    """What tells transformers to load the slices of one of `size` ranks. Raises ValueError for a model without any."""
    check_shardable(AutoConfig.from_pretrained(path), size)
    try:
        return DistributedConfig(tp_size=size)
    except TypeError as error:
        raise ValueError("several ranks need transformers 5.13 or newer") from error


def check_shardable(config: PreTrainedConfig, size: int) -> None:
    """Raises ValueError where a model cannot be cut into `size` slices, saying why."""
    text = config.get_text_config()
    plan: dict[str, str] | None = text.base_model_tp_plan
    if not plan:
        raise ValueError(f"transformers has no tensor-parallel plan for {text.model_type}: it runs on one device")
    if not any("att" in layer and style == "colwise" for layer, style in plan.items()):
        return  # each rank attends with all heads
    heads = int(text.num_attention_heads)
    key_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    if heads % size or key_heads % size:
        able = [str(n) for n in range(1, key_heads + 1) if heads % n == key_heads % n == 0]
        raise ValueError(
            f"{heads} attention and {key_heads} key heads do not divide by {size} ranks: it runs on {' or '.join(able)}"
        )


@contextmanager
def together(seconds: float = STUCK_SECONDS) -> Iterator[None]:
    """Around what takes all ranks: where it fails or takes longer, this process ends, and says where it stood."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    except Exception:
        log.critical("the ranks cannot go on together; this one ends", exc_info=True)
        os._exit(1)
    finally:
        faulthandler.cancel_dump_traceback_later()
