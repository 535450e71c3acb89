"""Metadata of GGUF files beside what the gguf package reads, and of files that are none."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from edge_agent.drafters.gguf.header import is_gguf, read_gguf_header


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "blob"  # without a suffix, as Ollama's
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_add_bos_token(True)
    writer.add_name("größe")
    writer.add_token_list(["a", "Ġb", "é", ""])
    writer.add_token_types([1, 1, 3, 5])
    writer.add_array("x.floats", [0.5, 2.0])
    writer.add_tensor("t", np.zeros((2, 3), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_fields_are_those_that_the_gguf_package_reads(file: Path) -> None:
    theirs = {name: field.contents() for name, field in GGUFReader(file).fields.items() if not name.startswith("GGUF.")}
    assert read_gguf_header(file) == theirs
    assert is_gguf(file)


def test_what_is_cut_short_or_lies_is_refused(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    end = len(whole) - 24 - 64
    for length in (0, 3, 10, 24, 40, end // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a whole GGUF file"):
            read_gguf_header(file)
    assert not is_gguf(tmp_path)
    for head in (
        struct.pack("<4sIQQ", b"GGUF", 99, 0, 0),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 60),
        struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 1 << 60),
        struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"a", 9, 4, 1 << 60),
        struct.pack("<4sIQQQ1sI", b"GGUF", 3, 0, 1, 1, b"a", 77),
        struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"a", 9, 9, 1),
    ):
        file.write_bytes(head)
        with pytest.raises(ValueError, match="not a whole GGUF file"):
            read_gguf_header(file)
