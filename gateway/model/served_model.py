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
from gateway.model.chat_template import ChatTemplate, Message, TemplateRefusal, with_one_system_message
from gateway.model.reasoning import thinking_marks
from gateway.model.token_bytes import TokenBytes
from gateway.model.tool_call_format import TAGS, CallFormat, native_format

MAX_TOKENIZER = 1 << 27  # bytes of tokenizer.json, unpacked; the largest in use have a quarter of that


class UnusableCard(Exception):
    """A verifier's model card cannot be served; the text says why."""


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """One model. `created` is when this gateway first heard of it, in seconds since the epoch.

    `calls` is the format of tool calls that its template teaches, if it teaches one that is spoken here. `thinking` are
    the marks around its thoughts, if it thinks. `mark_tokens` are the marks of both that are tokens of their own, and
    `special` the tokens that have no text unless somebody asks for it.
    """

    name: str
    fingerprint: str
    vocab_size: int
    context_length: int
    eos: tuple[int, ...]
    tokenizer: Tokenizer
    template: ChatTemplate | None
    token_bytes: TokenBytes
    calls: CallFormat | None
    thinking: tuple[str, str] | None
    mark_tokens: Mapping[str, int]
    special: frozenset[int]
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
        added = tokenizer.get_added_tokens_decoder()
        ids = {token.content: number for number, token in added.items()}
        thinking = thinking_marks(card.chat_template, ids)
        return cls(
            name=card.name,
            fingerprint=card.fingerprint,
            vocab_size=card.vocab_size,
            context_length=card.context_length,
            eos=tuple(card.eos),
            tokenizer=tokenizer,
            template=template,
            calls=native_format(card.chat_template) if template and template.takes_tools else None,
            thinking=thinking,
            mark_tokens={mark: ids[mark] for mark in (*TAGS, *(thinking or ())) if mark in ids},
            special=frozenset(number for number, token in added.items() if token.special),
            token_bytes=TokenBytes(tokenizer),
        )

    def rendered(
        self,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """A chat as the model's template writes it, up to where the assistant begins.

        Raises TemplateRefusal when the model has no template or its template does not take these messages.
        """
        if self.template is None:
            raise TemplateRefusal(f"the model {self.name} has no chat template, so it cannot serve chats")
        return self.template.render(with_one_system_message(messages), options, tools)

    def prompt(self, messages: Sequence[Message], options: Mapping[str, Any]) -> list[int]:
        """Token ids of a chat, up to where the assistant begins. Raises TemplateRefusal as `rendered` does."""
        return self.tokens(self.rendered(messages, options))

    def tokens(self, rendered: str) -> list[int]:
        """Token ids of a rendered chat."""
        return self.tokenizer.encode(rendered, add_special_tokens=False).ids


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
