"""A model as the gateway knows it: the contents of its verifiers' model card, with tokenizer and template loaded.

The catalog holds one model per name. gateway/verifiers/pool.py sees to it that verifiers of one name serve one model.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from edgedraft.wire import ModelCard
from gateway.model.chat_template import ChatTemplate, ChatTemplateError, Message, merge_system_messages
from gateway.model.reasoning import detect_reasoning_markers
from gateway.model.token_bytes import TokenBytes
from gateway.model.tool_call_format import MARKERS, ToolCallFormat, detect_tool_call_format

MAX_TOKENIZER_BYTES = 1 << 27  # bytes of tokenizer.json, unpacked; the largest common ones have a quarter of that


class UnusableCard(Exception):
    """A verifier's model card cannot be used; the text says why."""


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """One model. `created` is when this gateway first connected to a verifier of it, in seconds since 1970.

    `tool_call_format` is the format that the template teaches, None where it teaches no known one. `reasoning_markers`
    are the start and end markers, None for a model without reasoning. `marker_tokens` maps those markers of both that
    are single tokens to their ids. `special_tokens` are the ids that the detokenizer leaves out by default.
    """

    name: str
    fingerprint: str
    vocab_size: int
    context_length: int
    eos: tuple[int, ...]
    tokenizer: Tokenizer
    template: ChatTemplate | None
    token_bytes: TokenBytes
    tool_call_format: ToolCallFormat | None
    reasoning_markers: tuple[str, str] | None
    marker_tokens: Mapping[str, int]
    special_tokens: frozenset[int]
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def from_card(cls, card: ModelCard) -> ServedModel:
        """Loads the card's tokenizer and template; takes up to a second for a large vocabulary. Raises UnusableCard."""
        try:
            tokenizer = Tokenizer.from_str(_decompress(card.tokenizer).decode())
        except Exception as error:  # the library raises bare Exceptions
            raise UnusableCard(f"its tokenizer cannot be read: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        try:
            template = ChatTemplate(card.chat_template, card.bos_token, card.eos_token) if card.chat_template else None
        except ChatTemplateError as error:
            raise UnusableCard(str(error)) from error
        added = tokenizer.get_added_tokens_decoder()
        ids = {token.content: number for number, token in added.items()}
        reasoning_markers = detect_reasoning_markers(card.chat_template, ids)
        return cls(
            name=card.name,
            fingerprint=card.fingerprint,
            vocab_size=card.vocab_size,
            context_length=card.context_length,
            eos=tuple(card.eos),
            tokenizer=tokenizer,
            template=template,
            tool_call_format=detect_tool_call_format(card.chat_template)
            if template and template.supports_tools
            else None,
            reasoning_markers=reasoning_markers,
            marker_tokens={marker: ids[marker] for marker in (*MARKERS, *(reasoning_markers or ())) if marker in ids},
            special_tokens=frozenset(number for number, token in added.items() if token.special),
            token_bytes=TokenBytes(tokenizer),
        )

    def render_chat(
        self,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Returns the text of a chat by the model's template, up to where the assistant's message begins.

        Raises ChatTemplateError when the model has no template or its template rejects the messages.
        """
        if self.template is None:
            raise ChatTemplateError(f"the model {self.name} has no chat template, so it cannot serve chats")
        return self.template.render(merge_system_messages(messages), options, tools)

    def encode_chat(self, messages: Sequence[Message], options: Mapping[str, Any]) -> list[int]:
        """Returns the token ids of `render_chat`'s text. Raises ChatTemplateError."""
        return self.encode(self.render_chat(messages, options))

    def encode(self, rendered: str) -> list[int]:
        """Returns the token ids of a rendered chat, whose template has written the special tokens."""
        return self.tokenizer.encode(rendered, add_special_tokens=False).ids


class ModelCatalog:
    """The models by name. A model stays in it while no verifier serves it."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def get(self, name: str) -> ServedModel | None:
        return self._models.get(name)

    def find_by_fingerprint(self, fingerprint: str) -> ServedModel | None:
        return next((model for model in self if model.fingerprint == fingerprint), None)

    def add(self, model: ServedModel) -> None:
        self._models[model.name] = model


def _decompress(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, MAX_TOKENIZER_BYTES)
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError(f"more than {MAX_TOKENIZER_BYTES} bytes, or cut short")
    return text
