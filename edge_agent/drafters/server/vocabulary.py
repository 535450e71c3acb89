"""The vocabulary of the model that a server runs: where it is read from, and the check that the server really has it.

Only token ids travel, so a draft is worth something only if each id stands for the same text at the server and at the
target. The vocabulary gives the fingerprint that the gateway compares. That the server has it too is checked by having
the server turn all ids into text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from edge_agent.drafters.gguf.drafter import read_gguf_vocabulary
from edge_agent.drafters.gguf.header import is_gguf
from edge_agent.drafters.server.api import ServerApi
from edge_agent.drafters.server.http_client import ServerError
from edgedraft.local.demo_model import resolve_model
from edgedraft.tokenizer import read_vocabulary

CHUNK = 2048  # ids of one request
MAX_TOKENIZER = 1 << 26  # bytes of a tokenizer.json
NEEDS_TOKENIZER = (
    "it does not tell its tokenizer in a way that can be read here: pass --draft-tokenizer with the folder or the name "
    "of the gateway's model"
)
BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def read_server_vocabulary(api: ServerApi, tokenizer: str) -> dict[int, str]:
    """The tokens by id that the server should have, without asking the network.

    Taken from `tokenizer` (a folder, a tokenizer.json, a GGUF file or a hub name) if it is given, else from where the
    server says that its model is, if it runs on this machine. Raises ServerError when neither can be read.
    """
    if tokenizer:
        found = _read(resolve_model(tokenizer))
        if found is None:
            raise ServerError(f"--draft-tokenizer {tokenizer} has no tokenizer.json that can be read here")
        return found
    path = api.facts.tokenizer_path
    found = _read(path) if path and api.client.url.is_local else None
    if found is None:
        raise ServerError(NEEDS_TOKENIZER)
    return found


def check_server_vocabulary(api: ServerApi, vocabulary: Mapping[int, str]) -> None:
    """Compare the text of every id whose token is whole characters. Raises ServerError at the first difference.

    White space is left out of the comparison: some servers drop it at the ends of a text.
    """
    texts = token_texts(vocabulary)
    ids = sorted(texts)
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        own = "".join("".join(texts[i] for i in chunk).split())
        if "".join(api.detokenize(chunk).split()) != own:
            raise ServerError(f"it has another tokenizer: tokens {chunk[0]} to {chunk[-1]} are other texts there")


def token_texts(vocabulary: Mapping[int, str]) -> dict[int, str]:
    """The texts that ids stand for, of byte-level vocabularies (GPT-2's alphabet) and of SentencePiece's.

    Tokens that are parts of characters are left out.
    """
    byte_level = sum("Ġ" in token for token in vocabulary.values()) > sum("▁" in token for token in vocabulary.values())
    decoded = ((i, _byte_level_text(token) if byte_level else _piece_text(token)) for i, token in vocabulary.items())
    return {i: text for i, text in decoded if text is not None}


def _byte_level_text(token: str) -> str | None:
    if any(character not in BYTES for character in token):
        return token  # an added token, which is written as it is
    try:
        return bytes(BYTES[character] for character in token).decode()
    except UnicodeDecodeError:
        return None


def _piece_text(token: str) -> str | None:
    return None if BYTE_TOKEN.fullmatch(token) else token.replace("▁", " ")


def _byte_alphabet() -> Iterator[tuple[str, int]]:
    """GPT-2's characters for bytes: printable Latin-1 stands for itself, the others for U+0100 on."""
    shifted = 0x100
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or 0xAE <= byte <= 0xFF:
            yield chr(byte), byte
        else:
            yield chr(shifted), byte
            shifted += 1


BYTES = dict(_byte_alphabet())


def _read(path: str) -> dict[int, str] | None:
    """The vocabulary of a folder, a file, or a name in the Hugging Face cache; None when there is none."""
    file = Path(path)
    try:
        if is_gguf(file):
            return read_gguf_vocabulary(file)
        if file.is_dir():
            file = file / "tokenizer.json"
        elif not file.is_file():
            cached = _cached(path)
            if cached is None:
                return None
            file = Path(cached)
        if not file.is_file():
            return None
        if file.stat().st_size > MAX_TOKENIZER:
            raise ValueError(f"a tokenizer has no more than {MAX_TOKENIZER} bytes")
        return read_vocabulary(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ServerError(f"{path} cannot be read: {error}") from None


def _cached(name: str) -> str | None:
    """tokenizer.json of a hub name that is in the cache already, or None."""
    try:
        from transformers.utils.hub import cached_file

        return cached_file(name, "tokenizer.json", local_files_only=True)
    except (ImportError, OSError, ValueError):
        return None
