"""The card that tells a gateway all it needs of a target: names, vocabulary, tokenizer and chat template."""

from __future__ import annotations

import zlib
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from edgedraft.tokenizer import fingerprint
from edgedraft.wire import ModelCard
from verifier.settings import VerifierSettings


def card_of(settings: VerifierSettings, path: str, context_length: int) -> ModelCard:
    """The model at `path`, a name or a folder, for texts of up to so many tokens. Raises OSError, ValueError."""
    config = AutoConfig.from_pretrained(path).get_text_config()
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    file = cached_file(path, "tokenizer.json")
    if file is None:
        raise OSError(f"{path} has no tokenizer.json")
    source = Path(file).read_bytes()
    template = tokenizer.chat_template
    return ModelCard(
        name=settings.served_name or Path(settings.model).name,
        fingerprint=fingerprint(source),
        vocab_size=config.vocab_size,
        context_length=context_length,
        eos=tuple(sorted({token for token in (tokenizer.eos_token_id, *_ends(path)) if isinstance(token, int)})),
        tokenizer=zlib.compress(source),
        chat_template=template if isinstance(template, str) else "",
        bos_token=str(tokenizer.bos_token or ""),
        eos_token=str(tokenizer.eos_token or ""),
    )


def native_context(path: str) -> int:
    """How many tokens the model was made for, 0 if it does not say."""
    return int(getattr(AutoConfig.from_pretrained(path).get_text_config(), "max_position_embeddings", 0) or 0)


def _ends(path: str) -> list[int]:
    """The tokens that its generation config lets a text end with; what has none is derived from the model's own."""
    try:
        ends = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        ends = AutoConfig.from_pretrained(path).get_text_config().eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]
