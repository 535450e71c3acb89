"""Tokenizes prompts so that control tokens come from the chat template only, and never from what a client wrote.

Control tokens (begin of turn, end of turn, tool call, ...) are added tokens of a tokenizer: it finds their text
anywhere in a prompt. Before rendering, each character of a client's text with which a control token can begin is
replaced by a private-use twin, so that in the rendered prompt the text of a control token is the template's own. Mostly
the prompt without twins has just these control tokens, and is tokenized whole: an honest prompt has the tokens that
transformers gives it. Otherwise the prompt is cut at the template's control tokens, and what lies between is tokenized
by a tokenizer that knows none. docs/prompts.md has the argument.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

from tokenizers import Tokenizer

from gateway.model.text_length import characters_per_token, slack_of_a_cut

_TWINS = (0xF0000, 0xF8000, 0x100000, 0x108000)  # private-use code points, far more than one text uses by chance


class ControlTokenInContent(Exception):
    """A client's text cannot be kept apart from control tokens."""


class PromptTooLong(Exception):
    """The prompt has at least `num_tokens` tokens, which is more than were allowed."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__(f"at least {num_tokens} tokens")
        self.num_tokens = num_tokens


@dataclass(frozen=True, slots=True)
class Shield:
    """The twins of one request: pairs of a character and what stands for it in the client's texts."""

    pairs: tuple[tuple[str, str], ...]

    def protect(self, value: Any) -> Any:
        """The value with every string in it, keys included, protected. Raises ValueError if a text has a twin."""
        if isinstance(value, str):
            return self._protect_text(value)
        if isinstance(value, Mapping):
            return {self.protect(key): self.protect(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self.protect(entry) for entry in value]
        return value

    def restore(self, text: str) -> str:
        """The text as the client wrote it."""
        for character, twin in self.pairs:
            text = text.replace(twin, character)
        return text

    def _protect_text(self, text: str) -> str:
        ascii_only = text.isascii()
        for character, twin in self.pairs:
            if not ascii_only and twin in text:
                raise ValueError("the text has the twin of another character")
            text = text.replace(character, twin)
        return text


class PromptTokenizer:
    """A model's tokenizer, and which of its added tokens are control tokens.

    Those are the special ones, and others that the chat template or the output's syntax uses as `markers`. Added tokens
    of white space are none.
    """

    def __init__(self, tokenizer: Tokenizer, template: str, markers: Collection[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._control = {
            token.content: (number, token.lstrip, token.rstrip)
            for number, token in tokenizer.get_added_tokens_decoder().items()
            if token.content.strip() and (token.special or token.content in template or token.content in markers)
        }
        self._ids = frozenset(number for number, _, _ in self._control.values())
        longest_first = sorted(self._control, key=len, reverse=True)
        # Never matches where there is no control token.
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._firsts = sorted({content[0] for content in self._control})
        self._characters_per_token = characters_per_token(tokenizer)
        self._slack = slack_of_a_cut(tokenizer)

    def shields(self) -> Iterator[Shield]:
        """Shields to try: a text that has one's twins is refused by it."""
        for base in _TWINS:
            yield Shield(tuple((character, chr(base + n)) for n, character in enumerate(self._firsts)))

    def protect(self, value: Any) -> tuple[Shield, Any]:
        """The value protected, and by which shield. Raises ControlTokenInContent."""
        for shield in self.shields():
            try:
                return shield, shield.protect(value)
            except ValueError:
                continue
        raise ControlTokenInContent("private-use characters of several kinds cannot be served in one prompt")

    def encode(self, text: str, shield: Shield, max_tokens: int) -> list[int]:
        """The tokens of a rendered prompt, in which the client's texts are protected.

        Raises PromptTooLong, mostly before all of a text that is far too long was worked on, and ControlTokenInContent.
        """
        plain = shield.restore(text)
        self._check_length(plain, max_tokens)
        tokens = self._tokenizer.encode(plain, add_special_tokens=False).ids
        own = list(self._pattern.finditer(text))
        if [token for token in tokens if token in self._ids] != [self._control[match[0]][0] for match in own]:
            tokens = self._encode_apart(text, own, shield)
        if len(tokens) > max_tokens:
            raise PromptTooLong(len(tokens))
        return tokens

    def encode_plain(self, text: str, max_tokens: int, *, with_ends: bool, with_control: bool) -> list[int]:
        """The tokens of a text without a template.

        `with_ends` adds what the tokenizer puts around every text, such as a token for its beginning. `with_control`
        has control tokens found in it. Raises PromptTooLong and ControlTokenInContent.
        """
        if with_control:
            self._check_length(text, max_tokens)
            tokens = self._tokenizer.encode(text, add_special_tokens=False).ids
        else:
            shield, protected = self.protect(text)
            tokens = self.encode(protected, shield, max_tokens)
        if with_ends:
            before, after = self._ends
            tokens = [*before, *tokens, *after]
        if len(tokens) > max_tokens:
            raise PromptTooLong(len(tokens))
        return tokens

    def _check_length(self, text: str, max_tokens: int) -> None:
        """Raises PromptTooLong for a text whose characters, or whose beginning, tell that it has too many tokens.

        Mostly a token has less than four characters. Each beginning is twice as long as the one before, so that all of
        them cost no more than the whole text, and one that is far too long costs next to nothing.
        """
        if self._characters_per_token and len(text) > max_tokens * self._characters_per_token:
            raise PromptTooLong(ceil(len(text) / self._characters_per_token))
        size = 4 * max_tokens + 4096
        while self._slack is not None and len(text) > 2 * size:
            tokens = self._tokenizer.encode(text[:size].rstrip(), add_special_tokens=False).ids
            if len(tokens) - self._slack > max_tokens:
                raise PromptTooLong(len(tokens) - self._slack)
            size *= 2

    def _encode_apart(self, text: str, own: list[re.Match[str]], shield: Shield) -> list[int]:
        tokens: list[int] = []
        at, strip_left = 0, False
        for match in own:
            number, lstrip, rstrip = self._control[match[0]]
            tokens += self._encode_between(text[at : match.start()], shield, strip_left, lstrip)
            tokens.append(number)
            at, strip_left = match.end(), rstrip
        return tokens + self._encode_between(text[at:], shield, strip_left, False)

    def _encode_between(self, text: str, shield: Shield, strip_left: bool, strip_right: bool) -> list[int]:
        text = shield.restore(text)
        if strip_left:
            text = text.lstrip()
        if strip_right:
            text = text.rstrip()
        tokens = self._without_added_tokens.encode(text, add_special_tokens=False).ids if text else []
        if not self._ids.isdisjoint(tokens):
            raise ControlTokenInContent("the text of a control token cannot be served with this model")
        return tokens

    @cached_property
    def _without_added_tokens(self) -> Tokenizer:
        description = json.loads(self._tokenizer.to_str())
        description |= {"added_tokens": [], "post_processor": None}
        return Tokenizer.from_str(json.dumps(description))

    @cached_property
    def _ends(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text."""
        encoding = self._tokenizer.encode("a", add_special_tokens=True)
        added = encoding.special_tokens_mask
        first = added.index(0) if 0 in added else len(added)
        last = len(added) - added[::-1].index(0) if 0 in added else len(added)
        return encoding.ids[:first], encoding.ids[last:]
