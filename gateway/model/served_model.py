"""A model as the gateway knows it: the contents of its verifiers' model card, with the tokenizer loaded.

The catalog holds one model per name. gateway/verifiers/pool.py sees to it that verifiers of one name serve one model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from tokenizers import Tokenizer

from edgedraft.wire import ModelCard
from edgedraft.workers.pool import JobSetup
from gateway.model.prompt_jobs import PromptSetup, encode_message
from gateway.model.reasoning import detect_reasoning_markers
from gateway.model.text_length import UNPROVEN_CHARACTERS, characters_per_token
from gateway.model.token_bytes import TokenBytes
from gateway.model.tokenizer import TokenizerError, load_shared_tokenizer
from gateway.model.tool_call_format import MARKERS, ToolCallFormat, detect_tool_call_format


class UnusableCard(Exception):
    """A verifier's model card cannot be used; the text says why."""


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """One model. `created` is when this gateway first connected to a verifier of it, in seconds since 1970.

    `max_characters` is how long a text may be. None that is longer can fit the context if `characters_per_token` is
    known (text_length.py); without it, longer ones are not read. `setup` is what prompt workers load for it.
    `tool_call_format` is the format that the template teaches, None where it teaches no known one.
    `reasoning_markers` are the start and end markers, None for a model without reasoning. `marker_tokens` maps
    those markers of both that are single tokens to their ids. `special_tokens` are the ids that the detokenizer
    leaves out by default. `document_start` is the token that an empty prompt stands for.
    """

    name: str
    fingerprint: str
    vocab_size: int
    context_length: int
    max_characters: int
    characters_per_token: float | None
    eos: tuple[int, ...]
    tokenizer: Tokenizer
    setup: JobSetup
    token_bytes: TokenBytes
    tool_call_format: ToolCallFormat | None
    reasoning_markers: tuple[str, str] | None
    marker_tokens: Mapping[str, int]
    special_tokens: frozenset[int]
    document_start: int | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    async def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones too. In a thread, by the library's function that lets others run."""
        texts = await asyncio.to_thread(self.tokenizer.decode_batch, [tokens], skip_special_tokens=False)
        return texts[0]

    @classmethod
    def from_card(cls, card: ModelCard, supports_tools: bool = False) -> ServedModel:
        """Loads the card's tokenizer; takes up to a second for a large vocabulary. Raises UnusableCard.

        Whether the chat template supports tools is known to prompt workers (prompt_workers.py), which read it.
        """
        try:
            tokenizer = load_shared_tokenizer(card.tokenizer)
        except TokenizerError as error:
            raise UnusableCard(str(error)) from error
        added = tokenizer.get_added_tokens_decoder()
        ids = {token.content: number for number, token in added.items()}
        reasoning_markers = detect_reasoning_markers(card.chat_template, ids)
        per_token = characters_per_token(tokenizer)
        return cls(
            name=card.name,
            fingerprint=card.fingerprint,
            vocab_size=card.vocab_size,
            context_length=card.context_length,
            max_characters=int(card.context_length * (per_token or UNPROVEN_CHARACTERS)),
            characters_per_token=per_token,
            eos=tuple(card.eos),
            tokenizer=tokenizer,
            setup=prompt_setup(card),
            tool_call_format=detect_tool_call_format(card.chat_template) if supports_tools else None,
            reasoning_markers=reasoning_markers,
            marker_tokens={marker: ids[marker] for marker in (*MARKERS, *(reasoning_markers or ())) if marker in ids},
            special_tokens=frozenset(number for number, token in added.items() if token.special),
            token_bytes=TokenBytes(tokenizer),
            document_start=_document_start(card, ids),
        )


def prompt_setup(card: ModelCard) -> JobSetup:
    """What prompt workers load for a card."""
    setup = encode_message(PromptSetup(card.tokenizer, card.chat_template, card.bos_token, card.eos_token))
    return JobSetup(sha256(setup).hexdigest(), lambda: setup)


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


def _document_start(card: ModelCard, added: Mapping[str, int]) -> int | None:
    """The token behind which a model begins a new document, None without one."""
    named = [added[token] for token in ("<|endoftext|>", card.bos_token, card.eos_token) if token in added]
    return next((token for token in (*named, *card.eos) if 0 <= token < card.vocab_size), None)
