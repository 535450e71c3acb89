"""A draft's manifest, and the check of its files' content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgedraft.draft_manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST,
    DamagedFile,
    DraftFile,
    UnusableManifest,
    check_file,
    checked,
    parse_manifest,
    read_checked,
)

CONTENT = b"0123456789" * 10
FILE = DraftFile.of("draft.int8.onnx", CONTENT)


def document(**changes: Any) -> bytes:
    variant = {"file": msgspec.to_builtins(FILE), "kv_dtype": "float32"}
    fields = {
        "name": "small",
        "target": "large",
        "fingerprint": "f" * 64,
        "vocab_size": 300,
        "columns": 2,
        "layers": 1,
        "kv_heads": 1,
        "head_dim": 2,
        "context_length": 128,
        "head_ids": {"name": "head_ids.bin", "bytes": 8, "sha256": "0" * 64},
        "variants": {"int8": variant},
    }
    return msgspec.json.encode(fields | changes)


def named(name: str) -> dict[str, Any]:
    return {"head_ids": {"name": name, "bytes": 8, "sha256": "0" * 64}}


def test_a_manifest_names_its_files() -> None:
    assert [file.name for file in parse_manifest(document()).files] == ["head_ids.bin", "draft.int8.onnx"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 60_000,
        document() + b" " * MAX_MANIFEST,
        document(format=2),
        document(columns=400),
        document(layers=10**9),
        document(variants={}),
        *(document(**named(name)) for name in ("../x", "/x", "a/b", "a\\b", ".hidden", "", "x\n", "x" * 101, "a\0")),
        document(**named("draft.json")),
        document(**named("DRAFT.INT8.onnx")),
        document(head_ids={"name": "head_ids.bin", "bytes": 8, "sha256": "0" * 64 + "\n"}),
        document(head_ids={"name": "head_ids.bin", "bytes": 1 << 40, "sha256": "0" * 64}),
        document(head_ids={"name": "head_ids.bin", "bytes": -1, "sha256": "0" * 64}),
    ],
)
def test_what_is_no_manifest(content: bytes) -> None:
    with pytest.raises(UnusableManifest, match=MANIFEST_FILE):
        parse_manifest(content)


@pytest.mark.parametrize("size", [1, 7, 100, 101])
def test_the_right_content_passes_in_any_pieces(size: int, tmp_path: Path) -> None:
    pieces = [CONTENT[at : at + size] for at in range(0, len(CONTENT), size)]
    assert list(checked(FILE, pieces)) == pieces
    (tmp_path / FILE.name).write_bytes(CONTENT)
    assert list(read_checked(tmp_path, FILE, size)) == pieces
    assert check_file(tmp_path, FILE) == tmp_path / FILE.name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1], "has 99 bytes, not the 100"),
        (b"", "has 0 bytes, not the 100"),
        (CONTENT + b"0", "has more than the 100 bytes|has 101 bytes"),
        (CONTENT[:-1] + b"x", "is damaged: its checksum"),
    ],
)
def test_another_content_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=message):
        list(checked(FILE, [content[:50], content[50:]]))
    (tmp_path / FILE.name).write_bytes(content)
    with pytest.raises(DamagedFile, match=message):
        check_file(tmp_path, FILE)


def test_no_more_is_taken_than_the_first_piece_too_many() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 40

    with pytest.raises(DamagedFile):
        list(checked(FILE, endless()))
    assert taken == 3
