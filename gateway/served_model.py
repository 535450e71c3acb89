"""A model as the gateway knows it: what its verifiers' card says, with tokenizer and template ready for use.

The catalog holds one entry a name; that verifiers of one name serve one model is the pool's to see to.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from edgedraft.wire import ModelCard
from gateway.chat_template import ChatTemplate, Message, TemplateRefusal, with_one_system_message
from gateway.token_bytes import TokenBytes

MAX_TOKENIZER = 1 << 27  # bytes of tokenizer.json, unpacked; the largest in use have a quarter of that


class UnusableCard(Exception):
    """A verifier's model card cannot be served; the text says why."""


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """One model. `created` is when this gateway first heard of it, in seconds since the epoch."""

    name: str
    fingerprint: str
    vocab_size: int
    context_length: int
    eos: tuple[int, ...]
    tokenizer: Tokenizer
    template: ChatTemplate | None
    token_bytes: TokenBytes
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def from_card(cls, card: ModelCard) -> ServedModel:
        """Takes up to a second for a large vocabulary. Raises UnusableCard."""
        try:
            tokenizer = Tokenizer.from_str(_unpacked(card.tokenizer).decode())
        except Exception as error:  # the library raises bare Exceptions
            raise UnusableCard(f"its tokenizer cannot be read: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        try:
            template = ChatTemplate(card.chat_template, card.bos_token, card.eos_token) if card.chat_template else None
        except TemplateRefusal as error:
            raise UnusableCard(str(error)) from error
        return cls(
            card.name,
            card.fingerprint,
            card.vocab_size,
            card.context_length,
            tuple(card.eos),
            tokenizer,
            template,
            TokenBytes(tokenizer),
        )

    def prompt(self, messages: Sequence[Message], options: Mapping[str, Any]) -> list[int]:
        """Token ids of a chat, up to where the assistant begins.

        Raises TemplateRefusal when the model has no template or its template does not take these messages.
        """
        if self.template is None:
            raise TemplateRefusal(f"the model {self.name} has no chat template, so it cannot serve chats")
        text = self.template.render(with_one_system_message(messages), options)
        return self.tokenizer.encode(text, add_special_tokens=False).ids


class Catalog:
    """The models by name. One stays known while its verifiers are away."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def get(self, name: str) -> ServedModel | None:
        return self._models.get(name)

    def with_fingerprint(self, fingerprint: str) -> ServedModel | None:
        return next((model for model in self if model.fingerprint == fingerprint), None)

    def add(self, model: ServedModel) -> None:
        self._models[model.name] = model


def _unpacked(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, MAX_TOKENIZER)
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError(f"more than {MAX_TOKENIZER} bytes, or cut short")
    return text
