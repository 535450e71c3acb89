"""Reads an exported draft's folder (edgedraft/draft_manifest.py) and checks its files before anything parses them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from edgedraft.draft_manifest import MANIFEST_FILE, MAX_MANIFEST, DraftFile, DraftManifest, read_checked

MAX_GRAPH = 2_000_000_000  # bytes: a larger graph would need files beside it
EXTERNAL_DATA = b"location"  # the key of a tensor in another file; weights contain these bytes by chance in no lifetime


class _Exported(msgspec.Struct):
    variants: msgspec.Raw


def is_exported(folder: Path) -> bool:
    """Whether a folder is meant to be an exported draft. (A distilled draft has a draft.json too.)"""
    try:
        with (folder / MANIFEST_FILE).open("rb") as file:
            msgspec.json.decode(file.read(MAX_MANIFEST), type=_Exported)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def read_graph(folder: Path, file: DraftFile) -> bytes:
    """A graph's file. Raises OSError, and ValueError for tensors in other files too."""
    graph = _read(folder, file)
    if EXTERNAL_DATA in graph:
        raise ValueError(f"{file.name} refers to other files, which are not read")
    return graph


def read_head_ids(folder: Path, manifest: DraftManifest) -> np.ndarray:
    """The token id of every column of the logits, int64 [columns], ascending. Raises OSError and ValueError."""
    file = manifest.head_ids
    ids = np.frombuffer(_read(folder, file), "<u4").astype(np.int64) if file.bytes == 4 * manifest.columns else None
    if ids is None or not (np.diff(ids) > 0).all() or ids[-1] >= manifest.vocab_size:
        raise ValueError(f"{file.name} does not hold {manifest.columns} ascending token ids")
    return ids


def kv_bytes_per_token(manifest: DraftManifest, dtype: np.dtype) -> int:
    """Bytes of KV cache of one token, in all layers."""
    return 2 * manifest.layers * manifest.kv_heads * manifest.head_dim * dtype.itemsize


def _read(folder: Path, file: DraftFile) -> bytes:
    """Read a file that has the size and checksum of the manifest. Raises OSError and ValueError."""
    if file.bytes > MAX_GRAPH:
        raise ValueError(f"{file.name} has more than {MAX_GRAPH} bytes")
    return b"".join(read_checked(folder, file, file.bytes))  # in one chunk, which join() does not copy
