"""draft.json of an exported draft: what hosts need to know of its ONNX graphs before they load one.

A folder has this manifest, the token ids of the logits' columns, and a graph per variant. Gateways offer such folders
to browsers and to agents, which fetch them into folders of their own. Nothing of it is trusted: sizes are bounded, a
file's name never leads out of its folder, and `checked` tells whether a content is the one that the manifest names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
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
CHUNK = 1 << 20  # bytes

Size = Annotated[int, Meta(ge=1, le=1 << 16)]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}\Z")]


class UnusableManifest(ValueError):
    """The folder has no manifest that this version reads; the message says why."""


class DamagedFile(ValueError):
    """A content is not the one that the manifest names; the message says why."""


class DraftFile(Struct, frozen=True):
    """A file of the folder, and what its content must be."""

    name: FileName
    bytes: Annotated[int, Meta(ge=1, le=MAX_FILE)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]

    @classmethod
    def of(cls, name: str, content: bytes) -> DraftFile:
        """A file with this content."""
        return cls(name, len(content), hashlib.sha256(content).hexdigest())


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

    @property
    def files(self) -> list[DraftFile]:
        """All files but the manifest itself."""
        return [self.head_ids, *(variant.file for variant in self.variants.values())]


_decoder = msgspec.json.Decoder(DraftManifest)


def read_manifest(folder: Path) -> DraftManifest:
    """The manifest of an exported draft. Raises UnusableManifest, or OSError if there is none."""
    return parse_manifest(read_document(folder))


def read_document(folder: Path) -> bytes:
    """A manifest as it is stored, no further than one byte beyond what it may have. Raises OSError."""
    with (folder / MANIFEST_FILE).open("rb") as file:
        return file.read(MAX_MANIFEST + 1)


def parse_manifest(content: bytes) -> DraftManifest:
    """The manifest that draft.json holds. Raises UnusableManifest."""
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
    names = [MANIFEST_FILE, *(file.name.lower() for file in manifest.files)]  # there are file systems without case
    if len(set(names)) < len(names):
        raise UnusableManifest(f"{MANIFEST_FILE} names a file twice")
    return manifest


def checked(file: DraftFile, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Pass on the chunks of a content that is to be this file's.

    Raises DamagedFile: as soon as there are more bytes than the manifest names; at the end for fewer, and for another
    checksum.
    """
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        size += len(chunk)
        if size > file.bytes:
            raise DamagedFile(f"{file.name} has more than the {file.bytes} bytes of {MANIFEST_FILE}")
        digest.update(chunk)
        yield chunk
    if size < file.bytes:
        raise DamagedFile(f"{file.name} has {size} bytes, not the {file.bytes} of {MANIFEST_FILE}")
    if digest.hexdigest() != file.sha256:
        raise DamagedFile(f"{file.name} is damaged: its checksum is not that of {MANIFEST_FILE}")


def read_checked(folder: Path, file: DraftFile, chunk_bytes: int = CHUNK) -> Iterator[bytes]:
    """The chunks of a folder's file. Its size is compared before it is read. Raises OSError and DamagedFile."""
    path = folder / file.name
    size = path.stat().st_size
    if size != file.bytes:
        raise DamagedFile(f"{file.name} has {size} bytes, not the {file.bytes} of {MANIFEST_FILE}")
    with path.open("rb") as stored:
        yield from checked(file, iter(lambda: stored.read(chunk_bytes), b""))


def check_file(folder: Path, file: DraftFile) -> Path:
    """The path of a folder's file, which is what the manifest names. Raises OSError and DamagedFile."""
    for _ in read_checked(folder, file):
        pass
    return folder / file.name
