"""An exported draft, loaded by ONNX Runtime: checked against its manifest before it runs anything.

What is in the folder counts as foreign: sizes and checksums are compared before a file is parsed, the graph's inputs
and outputs before it runs, and it runs a row on trial before it is used.
"""

from __future__ import annotations

import logging
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
from edge_agent.onnx.providers import ProviderDevice, find_devices
from edgedraft.draft_manifest import MANIFEST_FILE, read_manifest

log = logging.getLogger(__name__)

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
    """A loaded draft. `variant` and `device` are those that were chosen; `head_ids` int64 [columns]."""

    def __init__(self, folder: Path, provider: str, threads: int, variant: VariantName | None = None) -> None:
        """Load for `provider`, or for the first that works ("auto"), with so many CPU threads.

        `variant` None is the one that suits the provider. Raises OSError, and ValueError when something is wrong with
        the folder, or when no provider runs the graph.
        """
        self.manifest = read_manifest(folder)
        self.head_ids = read_head_ids(folder, self.manifest)
        failures: list[str] = []
        for device in find_devices(provider):
            self.device = device
            self.variant: VariantName = variant or self._stored_variant(device.variant)
            stored = self.manifest.variants[self.variant]
            self.kv_dtype = np.dtype(stored.kv_dtype)
            graph = read_graph(folder, stored.file)
            try:
                self._session = _load(graph, device, threads)
                self._check_signature()
                self._check_run()
                return
            except Exception as error:  # of many kinds, and a provider's own libraries raise others
                reason = (str(error) or type(error).__name__).splitlines()[0][:200]
                failures.append(f"{device.description}: {reason}")
                log.warning("execution provider %s is skipped: %s", device.description, reason)
        raise ValueError(f"no execution provider runs it: {'; '.join(failures)}")

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

    def _stored_variant(self, wanted: VariantName) -> VariantName:
        """The wanted variant, or the other one where the folder has only that."""
        if wanted in self.manifest.variants:
            return wanted
        return "fp16" if wanted == "int8" else "int8"

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
        zero, mask = np.zeros(1, np.int64), np.array([[MASKED, 0]], np.float32)
        logits, new = self.run(DraftBatch(zero, zero, mask, zero, [past] * (2 * sizes.layers)))
        if logits.shape != (1, sizes.columns) or any(array.shape != past.shape for array in new):
            raise ValueError("its outputs have other shapes than the manifest says")
        if not (np.isfinite(logits).all() and all(np.isfinite(array).all() for array in new)):
            raise ValueError("its outputs are not numbers")


def _load(graph: bytes, device: ProviderDevice, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = FATAL
    # Threads that wait in a loop would take cores from the user's other programs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Products of int8 on processors without VNNI would overflow 16 bits.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return device.new_session(graph, options)
