"""draft.json of an exported draft: what hosts need to know of its ONNX graphs before they load one.

A folder has this manifest, the token ids of the logits' columns, and a graph per variant. Agents read it from a folder
of their own, gateways offer such folders to browsers. Nothing of it is trusted: sizes are bounded, and a file's name
never leads out of its folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from edgedraft.wire import MAX_VOCAB, Name, VocabSize

FORMAT = 1
MANIFEST_FILE = "draft.json"
RUNTIME_FOLDER = "onnxruntime-web"  # beside the folders of drafts that a gateway offers to browsers
MAX_MANIFEST = 1 << 16  # bytes
MAX_FILE = 1 << 34  # bytes

Size = Annotated[int, Meta(ge=1, le=1 << 16)]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$")]


class UnusableManifest(ValueError):
    """The folder has no manifest that this version reads; the message says why."""


class DraftFile(Struct, frozen=True):
    """A file of the folder, and what its content must be."""

    name: FileName
    bytes: Annotated[int, Meta(ge=1, le=MAX_FILE)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Variant(Struct, frozen=True):
    """One graph, and the dtype of its keys and values."""

    file: DraftFile
    kv_dtype: Literal["float32", "float16"]


class DraftManifest(Struct, frozen=True):
    """`fingerprint` is that of the target's tokenizer (tokenizer.py). `columns` is the number of head_ids.

    `context_length` is in tokens. `variants` are by name: int8, for CPUs and WebAssembly, and fp16, for GPUs and NPUs.
    """

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    target: Name
    fingerprint: Name
    vocab_size: VocabSize
    columns: Annotated[int, Meta(ge=1, le=MAX_VOCAB)]
    layers: Annotated[int, Meta(ge=1, le=1024)]
    kv_heads: Size
    head_dim: Size
    context_length: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    head_ids: DraftFile
    variants: Annotated[dict[Literal["int8", "fp16"], Variant], Meta(min_length=1)]
    format: int = FORMAT


_decoder = msgspec.json.Decoder(DraftManifest)


def read_manifest(folder: Path) -> DraftManifest:
    """The manifest of an exported draft. Raises UnusableManifest, or OSError if there is none."""
    with (folder / MANIFEST_FILE).open("rb") as file:
        content = file.read(MAX_MANIFEST + 1)
    if len(content) > MAX_MANIFEST:
        raise UnusableManifest(f"{MANIFEST_FILE} has more than {MAX_MANIFEST} bytes")
    try:
        manifest = _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnusableManifest(f"{MANIFEST_FILE} is not that of an exported draft: {error}") from None
    if manifest.format != FORMAT:
        raise UnusableManifest(f"{MANIFEST_FILE} has format {manifest.format}; this version reads {FORMAT}")
    if manifest.columns > manifest.vocab_size:
        raise UnusableManifest(f"{MANIFEST_FILE} tells of more columns than tokens")
    return manifest
