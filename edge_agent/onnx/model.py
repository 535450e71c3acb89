"""An exported draft, loaded by ONNX Runtime: checked against its manifest before it runs anything.

What is in the folder counts as foreign: sizes and checksums are compared before a file is parsed, the graph's inputs
and outputs before it runs, and it runs a row on trial before it is used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edge_agent.onnx.contract import (
    KEY,
    LOGIT_ROWS,
    LOGITS,
    MASK,
    MASKED,
    PAST_KEY,
    PAST_VALUE,
    POSITIONS,
    TOKENS,
    VALUE,
    VariantName,
    kv_names,
)
from edge_agent.onnx.folder import read_graph, read_head_ids
from edge_agent.onnx.providers import CPU, ProviderDevice, find_devices
from edgedraft.draft_manifest import MANIFEST_FILE, DraftManifest, read_manifest

log = logging.getLogger(__name__)

TRIAL_ROWS, TRIAL_SLOTS = 4, 256  # of a forward that is timed
TRIAL_RUNS = 5  # the first is slower: some providers compile the graph anew for each shape
FATAL = 4  # ONNX Runtime's log level: its errors are raised too


@dataclass(frozen=True)
class DraftBatch:
    """The inputs of a run, as the table in contract.py has them.

    tokens and positions int64 [rows], mask float32 [rows, past + rows], logit_rows int64 [n]; past holds keys and
    values of every layer in turn, each [kv_heads, past, head_dim].
    """

    tokens: np.ndarray
    positions: np.ndarray
    mask: np.ndarray
    logit_rows: np.ndarray
    past: Sequence[np.ndarray] | np.ndarray


class OnnxModel:
    """A draft on one device. `head_ids` int64 [columns]."""

    def __init__(
        self,
        manifest: DraftManifest,
        head_ids: np.ndarray,
        variant: VariantName,
        graph: bytes,
        device: ProviderDevice,
        threads: int,
    ) -> None:
        """Load the graph of a variant with so many CPU threads.

        Raises ValueError when it is not what the manifest says, and whatever a provider's libraries raise.
        """
        self.manifest, self.head_ids, self.device = manifest, head_ids, device
        self.variant: VariantName = variant
        self.kv_dtype = np.dtype(manifest.variants[variant].kv_dtype)
        self._session = _load(graph, device, threads)
        self._check_signature()
        self._check_run()

    def run(self, batch: DraftBatch) -> tuple[np.ndarray, list[np.ndarray]]:
        """Logits float32 [n, columns], and keys and values of every layer in turn, each [kv_heads, rows, head_dim]."""
        inputs = {
            TOKENS: batch.tokens,
            POSITIONS: batch.positions,
            MASK: batch.mask,
            LOGIT_ROWS: batch.logit_rows,
            **dict(zip(kv_names(self.manifest.layers, PAST_KEY, PAST_VALUE), batch.past, strict=True)),
        }
        outputs: Any = self._session.run([LOGITS, *kv_names(self.manifest.layers, KEY, VALUE)], inputs)
        return outputs[0], outputs[1:]

    def measure(self) -> float:
        """Seconds of a draft forward, the best of a few."""
        sizes = self.manifest
        batch = self._trial(TRIAL_ROWS, np.zeros((sizes.kv_heads, TRIAL_SLOTS, sizes.head_dim), self.kv_dtype))
        seconds: list[float] = []
        for _ in range(TRIAL_RUNS):
            start = time.perf_counter()
            self.run(batch)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    def _check_signature(self) -> None:
        """Raises ValueError when the graph's inputs or outputs are not those of the manifest."""
        sizes = self.manifest
        kv = ("float16" if self.kv_dtype == np.float16 else "float", (sizes.kv_heads, None, sizes.head_dim))
        inputs = {
            TOKENS: ("int64", (None,)),
            POSITIONS: ("int64", (None,)),
            MASK: ("float", (None, None)),
            LOGIT_ROWS: ("int64", (None,)),
            **dict.fromkeys(kv_names(sizes.layers, PAST_KEY, PAST_VALUE), kv),
        }
        outputs = {LOGITS: ("float", (None, sizes.columns)), **dict.fromkeys(kv_names(sizes.layers, KEY, VALUE), kv)}
        for expected, nodes in ((inputs, self._session.get_inputs()), (outputs, self._session.get_outputs())):
            found = {
                node.name: (
                    node.type.removeprefix("tensor(").removesuffix(")"),
                    tuple(size if isinstance(size, int) else None for size in node.shape),
                )
                for node in nodes
            }
            for name in sorted({*expected, *found}):
                if found.get(name) != expected.get(name):
                    raise ValueError(f"its graph is not that of {MANIFEST_FILE}: {name[:60]} differs")

    def _check_run(self) -> None:
        """Run one row without a past. Raises ValueError when its outputs are not what the manifest promises."""
        sizes = self.manifest
        past = np.zeros((sizes.kv_heads, 1, sizes.head_dim), self.kv_dtype)
        logits, new = self.run(self._trial(1, past))
        if logits.shape != (1, sizes.columns) or any(array.shape != past.shape for array in new):
            raise ValueError("its outputs have other shapes than the manifest says")
        if not (np.isfinite(logits).all() and all(np.isfinite(array).all() for array in new)):
            raise ValueError("its outputs are not numbers")

    def _trial(self, rows: int, past: np.ndarray) -> DraftBatch:
        """Rows that depend on nothing but themselves, beside slots [kv_heads, slots, head_dim] of every layer."""
        slots, zeros = past.shape[1], np.zeros(rows, np.int64)
        mask = np.full((rows, slots + rows), MASKED, np.float32)
        np.fill_diagonal(mask[:, slots:], 0)
        return DraftBatch(zeros, zeros, mask, zeros[:1], [past] * (2 * self.manifest.layers))


def load_model(folder: Path, provider: str, threads: int, variant: VariantName | None = None) -> OnnxModel:
    """Load a draft for `provider`, or for the best that works ("auto"), with so many CPU threads.

    The first accelerator that runs the draft is taken, unless the CPU is faster: a provider has not a kernel for
    everything on every device, and then runs it on the CPU. `variant` None is the one that suits each provider. Raises
    OSError, and ValueError when something is wrong with the folder, or when no provider runs the graph.
    """
    manifest = read_manifest(folder)
    head_ids = read_head_ids(folder, manifest)
    failures: list[str] = []
    found: OnnxModel | None = None
    for device in find_devices(provider):
        if found is not None and device.provider != CPU:
            continue
        name = variant or _stored_variant(folder, manifest, device.variant)
        graph = read_graph(folder, manifest.variants[name].file)
        try:
            model = OnnxModel(manifest, head_ids, name, graph, device, threads)
        except Exception as error:  # of many kinds, and a provider's own libraries raise others
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            failures.append(f"{device.description}: {reason}")
            log.warning("execution provider %s is skipped: %s", device.description, reason)
        else:
            found = model if found is None else _faster(found, model)
    if found is None:
        raise ValueError(f"no execution provider runs it: {'; '.join(failures)}")
    return found


def _stored_variant(folder: Path, manifest: DraftManifest, wanted: VariantName) -> VariantName:
    """The wanted variant, or another one where the folder has only that."""
    variants = manifest.variants.items()
    stored: list[VariantName] = [name for name, variant in variants if (folder / variant.file.name).is_file()]
    return wanted if wanted in stored or not stored else stored[0]


def _faster(accelerated: OnnxModel, on_cpu: OnnxModel) -> OnnxModel:
    """The accelerator, unless the CPU takes less time."""
    name, cpu_seconds = accelerated.device.description, on_cpu.measure()
    try:
        seconds = accelerated.measure()
    except Exception as error:
        log.warning("execution provider %s is not used: %s", name, (str(error) or type(error).__name__).splitlines()[0])
        return on_cpu
    if seconds <= cpu_seconds:
        return accelerated
    told = (name, 1e3 * seconds, 1e3 * cpu_seconds)
    log.warning("execution provider %s is not used: it takes %.1f ms a forward, and the CPU %.1f", *told)
    return on_cpu


def _load(graph: bytes, device: ProviderDevice, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = FATAL
    # Threads that wait in a loop would take cores from the user's other programs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Products of int8 on processors without VNNI would overflow 16 bits.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return device.new_session(graph, options)
