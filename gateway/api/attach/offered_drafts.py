"""What devices may fetch to draft with: exported draft models, and for browsers the files of onnxruntime-web.

The operator's folder (--browser-drafts) has a folder per exported draft (`edgedraft draft export --onnx`) and one named
`onnxruntime-web` (`edgedraft browser fetch`). It is read at start. Only files that a manifest names, the manifest
itself, or those that the runtime consists of are ever served.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedraft.draft_manifest import (
    MANIFEST_FILE,
    RUNTIME_FOLDER,
    DamagedFile,
    DraftFile,
    DraftManifest,
    UnusableManifest,
    check_file,
    parse_manifest,
    read_document,
)
from edgedraft.observability.logs import event
from gateway.model.served_model import ServedModel

log = logging.getLogger(__name__)

RUNTIME_TYPES = {".mjs": "text/javascript; charset=utf-8", ".wasm": "application/wasm"}


@dataclass(frozen=True, slots=True)
class OfferedDraft:
    """A draft and the file of its manifest, whose checksum names the whole draft."""

    manifest: DraftManifest
    document: DraftFile


@dataclass(frozen=True, slots=True)
class OfferedDrafts:
    """`files` are those of the drafts by their SHA-256, `runtime` those of onnxruntime-web by their names."""

    drafts: tuple[OfferedDraft, ...] = ()
    files: dict[str, Path] = field(default_factory=dict)
    runtime: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path | None) -> OfferedDrafts:
        """What a folder holds. Raises ValueError if it is none. Unusable drafts are logged and left out."""
        if folder is None:
            return cls()
        if not folder.is_dir():
            raise ValueError(f"--browser-drafts: there is no folder {folder}")
        drafts: list[OfferedDraft] = []
        files: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if not (path / MANIFEST_FILE).is_file():
                continue
            try:
                content = read_document(path)
                draft = OfferedDraft(parse_manifest(content), DraftFile.of(MANIFEST_FILE, content))
                found = {file.sha256: check_file(path, file) for file in (draft.document, *draft.manifest.files)}
            except (OSError, UnusableManifest, DamagedFile) as error:
                event(log, "draft left out", level=logging.WARNING, folder=path.name, reason=str(error))
                continue
            drafts.append(draft)
            files |= found
        return cls(tuple(drafts), files, _runtime(folder / RUNTIME_FOLDER))

    def offers(self, models: Iterable[ServedModel]) -> list[dict[str, Any]]:
        """The drafts that fit one of these models, as page and agents read them."""
        return [
            _offer(draft, model.name)
            for model in models
            for draft in self.drafts
            if draft.manifest.fingerprint == model.fingerprint
        ]


def _runtime(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {path.name: path for path in folder.iterdir() if path.suffix in RUNTIME_TYPES and path.is_file()}


def _offer(draft: OfferedDraft, model: str) -> dict[str, Any]:
    manifest = draft.manifest
    return {
        "model": model,
        "manifest": _described(draft.document),
        "name": manifest.name,
        "fingerprint": manifest.fingerprint,
        "shape": describe_shape(manifest),
        "headIds": _described(manifest.head_ids),
        "variants": {
            name: {"file": _described(variant.file), "kvType": variant.kv_dtype}
            for name, variant in manifest.variants.items()
        },
    }


def describe_shape(manifest: DraftManifest) -> dict[str, int]:
    """The sizes of a draft as the page's modules name them."""
    return {
        "columns": manifest.columns,
        "layers": manifest.layers,
        "kvHeads": manifest.kv_heads,
        "headDim": manifest.head_dim,
        "contextLength": manifest.context_length,
        "vocabSize": manifest.vocab_size,
    }


def _described(file: DraftFile) -> dict[str, Any]:
    return {"name": file.name, "bytes": file.bytes, "sha256": file.sha256, "url": f"/attach/drafts/{file.sha256}"}
