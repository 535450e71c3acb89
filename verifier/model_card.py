"""Builds the model card, which a gateway gets on connecting: name, vocabulary, tokenizer and chat template."""

from __future__ import annotations

import zlib
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from edgedraft.tokenizer import fingerprint
from edgedraft.wire import ModelCard
from verifier.settings import VerifierSettings


def build_model_card(settings: VerifierSettings, path: str, context_length: int) -> ModelCard:
    """The card of the model at `path`, a Hugging Face name or a folder. Raises OSError or ValueError."""
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
        eos=tuple(sorted({token for token in (tokenizer.eos_token_id, *_eos_tokens(path)) if isinstance(token, int)})),
        tokenizer=zlib.compress(source),
        chat_template=template if isinstance(template, str) else "",
        bos_token=str(tokenizer.bos_token or ""),
        eos_token=str(tokenizer.eos_token or ""),
    )


def native_context(path: str) -> int:
    """The model's own context length in tokens, 0 if its config has none."""
    return int(getattr(AutoConfig.from_pretrained(path).get_text_config(), "max_position_embeddings", 0) or 0)


def _eos_tokens(path: str) -> list[int]:
    """The EOS tokens of the generation config, or of the model config if there is no generation config."""
    try:
        eos = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        eos = AutoConfig.from_pretrained(path).get_text_config().eos_token_id
    return eos if isinstance(eos, list) else [] if eos is None else [eos]
