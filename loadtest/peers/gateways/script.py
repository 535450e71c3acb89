"""The text that both stubs send, in tokens of the demo model's tokenizer.

Loads neither torch nor transformers, so that a stub starts quickly.
"""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.tokenizer import fingerprint
from edgedraft.wire import ModelCard

TEXT = (
    "A lighthouse keeper counts the ships that pass at night. Each has a light of its own, and after some years he "
    "knows most of them by how they move: the ferry that is always late, the trawlers that leave together before "
    "dawn, the pilot's boat with its quick white lamp. When fog comes he cannot see any of them, so he listens. An "
    "engine tells him more than a lamp does, he says, for nobody paints an engine. In the morning he writes down what "
    "he heard, the hour and the wind, and makes his coffee while the kettle whistles the only tune that it knows. "
)


def model_card(name: str) -> ModelCard:
    """The demo model's card under another name."""
    folder = ensure_demo_model()
    source = (folder / "tokenizer.json").read_bytes()
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    return ModelCard(
        name=name,
        fingerprint=fingerprint(source),
        vocab_size=config["vocab_size"],
        context_length=config["max_position_embeddings"],
        eos=tuple(_tokenizer().encode(tokenizer_config["eos_token"], add_special_tokens=False).ids),
        tokenizer=zlib.compress(source),
        chat_template=(folder / "chat_template.jinja").read_text(),
        bos_token=tokenizer_config["bos_token"],
        eos_token=tokenizer_config["eos_token"],
    )


def script_tokens(count: int) -> list[int]:
    """The first `count` token ids; the text is repeated."""
    ids = _tokenizer().encode(TEXT, add_special_tokens=False).ids
    return (ids * (count // len(ids) + 1))[:count]


def script_pieces(count: int) -> list[str]:
    """The text of each of those tokens; joined, what a client must receive."""
    decoder = DecodeStream(skip_special_tokens=True)
    return [decoder.step(_tokenizer(), token) or "" for token in script_tokens(count)]


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(Path(ensure_demo_model()) / "tokenizer.json"))
