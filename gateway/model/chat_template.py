"""Renders a model's chat template: from messages to the prompt's text, with the same result as transformers.

The template comes from a verifier, so it runs in Jinja's sandbox, and in a worker process (prompt_worker.py): what it
computes is not bounded. gateway/api/chat/request.py validates messages; control_tokens.py tokenizes the text.

Source: transformers, utils/chat_template_utils.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.model.prompt_jobs import Message

# What a template raises on messages that it was not written for.
_RENDER_ERRORS = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class ChatTemplateError(Exception):
    """The template does not compile, or rejects the messages; the text says why."""


class ChatTemplate:
    """A compiled template. `supports_tools` says whether it renders both tools and earlier calls of them."""

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        """Raises ChatTemplateError for a source that does not compile."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        self._twins: dict[str, str] = {}
        environment.filters["tojson"] = partial(_tojson, self._twins)
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            syntax = environment.parse(source)
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ChatTemplateError(f"the model's chat template does not compile: {error}") from error
        self.supports_tools = _supports_tools(syntax)
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}

    def render(
        self,
        messages: Sequence[Message],
        options: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        twins: Mapping[str, str] | None = None,
    ) -> str:
        """Returns the prompt up to where the assistant's message begins. Raises ChatTemplateError.

        `options` are further variables of the template; `tools` have the form of OpenAI's API. `twins` are characters
        that stand for others in all of these texts (control_tokens.py).
        """
        self._twins.clear()
        self._twins.update(twins or {})
        variables: dict[str, Any] = dict(options or {}) | self._tokens
        variables |= {"messages": list(messages), "tools": tools, "documents": None, "add_generation_prompt": True}
        try:
            return self._template.render(variables)
        except _RENDER_ERRORS as e:
            raise ChatTemplateError(f"the model's chat template does not take these messages: {e}") from e


def merge_system_messages(messages: Sequence[Message]) -> list[Message]:
    """Returns the messages with one system message, the first, which joins those of the roles system and developer.

    Most templates support no more than that.
    """
    messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
    system = [m for m in messages if m["role"] == "system"]
    if not system:
        return messages
    merged = {**system[0], "content": "\n\n".join(m["content"] for m in system)}
    return [merged, *(m for m in messages if m["role"] != "system")]


def _supports_tools(syntax: nodes.Template) -> bool:
    attributes = {attribute.attr for attribute in syntax.find_all(nodes.Getattr)}
    keys = {constant.value for constant in syntax.find_all(nodes.Const) if isinstance(constant.value, str)}
    return any(name.name == "tools" for name in syntax.find_all(nodes.Name)) and "tool_calls" in attributes | keys


def split_reasoning(message: Message, markers: tuple[str, str]) -> Message:
    """Returns an assistant's message with the reasoning at the beginning of its content as `reasoning_content`.

    Templates of reasoning models do so themselves. They would not find the markers in a protected text.
    """
    content = message.get("content")
    if message["role"] != "assistant" or not isinstance(content, str) or message.get("reasoning_content"):
        return message
    start, end = markers
    reasoning, found, rest = content.partition(end)
    if not found:
        return message
    reasoning = reasoning.rpartition(start)[2].strip("\n")
    return {**message, "reasoning_content": reasoning, "content": rest.lstrip("\n")}


def _tojson(
    twins: Mapping[str, str],
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own tojson escapes HTML.
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if ensure_ascii:  # what a twin stands for would not have been escaped
        for twin in twins.values():
            text = text.replace(json.dumps(twin)[1:-1], twin)
    return text


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


class _GenerationBlock(Extension):
    """{% generation %} marks the assistant's part for training; here it only renders its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
