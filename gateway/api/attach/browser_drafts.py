"""What browsers draft with: exported draft models, and the files of onnxruntime-web that run them.

The operator's folder (--browser-drafts) has a folder per exported draft (`edgedraft draft export --onnx`) and one named
`onnxruntime-web` (`edgedraft browser fetch`). It is read at start. Only files that a manifest names, or that the
runtime consists of, are ever served.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedraft.draft_manifest import (
    MANIFEST_FILE,
    RUNTIME_FOLDER,
    DraftFile,
    DraftManifest,
    UnusableManifest,
    read_manifest,
)
from edgedraft.observability.logs import event
from gateway.model.served_model import ServedModel

log = logging.getLogger(__name__)

RUNTIME_TYPES = {".mjs": "text/javascript; charset=utf-8", ".wasm": "application/wasm"}


@dataclass(frozen=True, slots=True)
class BrowserDrafts:
    """`files` are those of the drafts by their SHA-256, `runtime` those of onnxruntime-web by their names."""

    manifests: tuple[DraftManifest, ...] = ()
    files: dict[str, Path] = field(default_factory=dict)
    runtime: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path | None) -> BrowserDrafts:
        """What a folder holds. Raises ValueError if it is none. Unusable drafts are logged and left out."""
        if folder is None:
            return cls()
        if not folder.is_dir():
            raise ValueError(f"--browser-drafts: there is no folder {folder}")
        manifests: list[DraftManifest] = []
        files: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if not (path / MANIFEST_FILE).is_file():
                continue
            try:
                manifest = read_manifest(path)
                found = {file.sha256: _existing(path, file) for file in _files(manifest)}
            except (OSError, UnusableManifest) as error:
                event(log, "browser draft left out", level=logging.WARNING, folder=path.name, reason=str(error))
                continue
            manifests.append(manifest)
            files |= found
        return cls(tuple(manifests), files, _runtime(folder / RUNTIME_FOLDER))

    def offers(self, models: Iterable[ServedModel]) -> list[dict[str, Any]]:
        """The drafts that fit one of these models, as the page reads them."""
        found: list[dict[str, Any]] = []
        for model in models:
            found += [
                _offer(manifest, model.name) for manifest in self.manifests if manifest.fingerprint == model.fingerprint
            ]
        return found


def _files(manifest: DraftManifest) -> list[DraftFile]:
    return [manifest.head_ids, *(variant.file for variant in manifest.variants.values())]


def _existing(folder: Path, file: DraftFile) -> Path:
    path = folder / file.name
    if path.stat().st_size != file.bytes:
        raise UnusableManifest(f"{file.name} has not the {file.bytes} bytes of the manifest")
    with path.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
            raise UnusableManifest(f"{file.name} is damaged: its checksum is not that of the manifest")
    return path


def _runtime(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {path.name: path for path in folder.iterdir() if path.suffix in RUNTIME_TYPES and path.is_file()}


def _offer(manifest: DraftManifest, model: str) -> dict[str, Any]:
    return {
        "model": model,
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
