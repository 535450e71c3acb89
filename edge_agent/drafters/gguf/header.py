"""The metadata of a GGUF file: its architecture and its tokenizer, without the tensors.

The gguf package's reader makes several NumPy arrays of every string, so a vocabulary takes it seconds to minutes; here
it takes a tenth of a second, and no package.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, Any

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_FIELDS = 1 << 14
MAX_STRING = 1 << 24  # bytes
MAX_ARRAY = 1 << 22  # values

# By the number that stands for a type: struct's format of one value, little-endian.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def is_gguf(path: Path) -> bool:
    """Whether this is a file that begins as GGUF files do, whatever its name."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_gguf_header(path: Path) -> dict[str, Any]:
    """The metadata fields by name: numbers, strings and lists of them. Raises ValueError when it is no GGUF file."""
    try:
        with open(path, "rb") as file:
            magic = file.read(len(MAGIC))
            version, _, count = struct.unpack("<IQQ", file.read(20))
            if magic != MAGIC or version not in VERSIONS or count > MAX_FIELDS:
                raise ValueError("it is not GGUF of a version that is known here")
            return {_string(file): _value(file, _number(file, "I")) for _ in range(count)}
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} is not a whole GGUF file: {error}") from None


def _value(file: IO[bytes], kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind in _SCALARS:
        return _number(file, _SCALARS[kind])
    if kind != _ARRAY:
        raise ValueError(f"a field has the unknown type {kind}")
    item, length = struct.unpack("<IQ", file.read(12))
    if length > MAX_ARRAY:
        raise ValueError(f"a field has {length} values")
    if item == _STRING:
        return [_string(file) for _ in range(length)]
    if item not in _SCALARS:
        raise ValueError(f"a field has values of the unknown type {item}")
    layout = f"<{length}{_SCALARS[item]}"
    return list(struct.unpack(layout, file.read(struct.calcsize(layout))))


def _number(file: IO[bytes], layout: str) -> Any:
    return struct.unpack(f"<{layout}", file.read(struct.calcsize(f"<{layout}")))[0]


def _string(file: IO[bytes]) -> str:
    length = _number(file, "Q")
    if length > MAX_STRING:
        raise ValueError(f"a string has {length} bytes")
    content = file.read(length)
    if len(content) < length:
        raise ValueError("it ends in the middle of a string")
    return content.decode()
