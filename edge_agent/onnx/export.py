"""`edgedraft draft export`: writes a draft model as a folder of ONNX graphs, for agents without PyTorch and browsers.

edgedraft/draft_manifest.py has the folder's format. Before it is complete, each graph's logits are compared with the
model's own.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from transformers import PreTrainedModel

from edge_agent.drafters.loading import read_tokenizer
from edge_agent.drafters.pytorch.draft_model import SPEC_FILE, load_draft, read_spec, shipped_draft
from edge_agent.onnx.contract import KV_DTYPES, MASKED
from edge_agent.onnx.graph import Matrix, build_graph
from edge_agent.onnx.model import DraftBatch, OnnxModel, load_model
from edge_agent.onnx.weights import UnsupportedDraft, read_weights
from edge_agent.settings import DraftExportSettings
from edgedraft.draft_manifest import MANIFEST_FILE, DraftFile, DraftManifest, Variant
from edgedraft.local.demo_model import DEMO_MODEL, DemoModelError, resolve_model
from edgedraft.observability.logs import configure_logging
from edgedraft.tokenizer import fingerprint

# A graph's logits may differ from the model's by this many standard deviations of them, where weights are rounded anew.
MAX_LOGIT_DIFFERENCE = 0.25
CHECKED_ROWS = 12


def main(settings: DraftExportSettings) -> None:
    """Run `edgedraft draft export`. Exits with 1 and a line on stderr when the draft cannot be exported."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        draft = settings.draft or shipped_draft(DEMO_MODEL)
        if draft is None:
            raise ValueError("no draft model comes with this installation: name one")
        out = settings.onnx or settings.drafts_folder / f"exported-{Path(draft).name}"
        manifest = export_draft(str(draft), out)
    except (OSError, ValueError, DemoModelError) as error:
        sys.exit(f"edgedraft draft export: {error}")
    for file in manifest.files:
        print(f"{out / file.name}: {file.bytes / 1e6:.1f} MB")


def export_draft(draft: str, out: Path) -> DraftManifest:
    """Export a draft, by its folder or hub name, to the folder `out`. Raises OSError and ValueError."""
    target = resolve_model(read_spec(Path(draft)).target) if (Path(draft) / SPEC_FILE).is_file() else None
    model, head_ids = load_draft(draft, target)
    weights = read_weights(model)
    ids = np.arange(len(weights.head.values)) if head_ids is None else head_ids.numpy()
    order = np.argsort(ids)  # ascending, which hosts may rely on
    head = weights.head
    bias = None if head.bias is None else head.bias[order]
    weights = dataclasses.replace(weights, head=Matrix(head.values[order], head.scales[order], bias))
    config: Any = model.config.get_text_config()
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST_FILE).unlink(missing_ok=True)  # written last: a folder that has it is complete
    manifest = DraftManifest(
        name=Path(draft).name,
        target=read_spec(Path(draft)).target if target else Path(draft).name,
        fingerprint=fingerprint(read_tokenizer(target or draft)),
        vocab_size=len(weights.embeddings.values),
        columns=len(ids),
        layers=len(weights.layers),
        kv_heads=weights.kv_heads,
        head_dim=weights.head_dim,
        # Beyond a sliding window a layer would no longer attend to the whole text, as the graph does.
        context_length=min(config.max_position_embeddings, getattr(config, "sliding_window", None) or 1 << 30),
        head_ids=_write(out, "head_ids.bin", ids[order].astype("<u4").tobytes()),
        variants={
            name: Variant(_write(out, f"draft.{name}.onnx", build_graph(weights, name).SerializeToString()), kv_dtype)
            for name, kv_dtype in KV_DTYPES.items()
        },
    )
    (out / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    try:
        for variant in KV_DTYPES:
            _check_logits(load_model(out, "cpu", 1, variant), model, order)
    except UnsupportedDraft:
        (out / MANIFEST_FILE).unlink()
        raise
    return manifest


def _write(folder: Path, name: str, data: bytes) -> DraftFile:
    (folder / name).write_bytes(data)
    return DraftFile.of(name, data)


@torch.inference_mode()
def _check_logits(exported: OnnxModel, model: PreTrainedModel, order: np.ndarray) -> None:
    """Compare logits behind a short text. Raises UnsupportedDraft when they are not the model's."""
    sizes, rows = exported.manifest, np.arange(CHECKED_ROWS)
    tokens = (7 * rows + 3) % sizes.vocab_size
    expected = model(torch.from_numpy(tokens)[None], use_cache=False).logits[0].float().numpy()[:, order]
    mask = np.full((CHECKED_ROWS, 1 + CHECKED_ROWS), MASKED, np.float32)
    mask[:, 1:][np.tri(CHECKED_ROWS, dtype=np.bool_)] = 0
    past = np.zeros((2 * sizes.layers, sizes.kv_heads, 1, sizes.head_dim), exported.kv_dtype)
    logits, _ = exported.run(DraftBatch(tokens, rows, mask, rows, past))
    if np.abs(logits - expected).max() > MAX_LOGIT_DIFFERENCE * expected.std():
        raise UnsupportedDraft(f"the graph of {type(model).__name__} does not compute what the model does")
