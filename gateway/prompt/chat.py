"""Prepares a chat with its tools and its output format for a model: the prompt, the grammar and the output's syntax.

Chat completions and responses share it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgedraft.grammar.service import GrammarService
from gateway.http.errors import ApiError
from gateway.model.chat_template import ChatTemplateError, Message
from gateway.model.reasoning import reasoning_after
from gateway.model.served_model import ServedModel
from gateway.model.tool_call_format import HERMES
from gateway.output.parser import OutputSyntax
from gateway.prompt.output_format import ANY_OBJECT, OutputFormat, first_compiling, schema_candidates
from gateway.prompt.output_grammar import GrammarFragment, ToolCallRule, build_output_grammar, json_fragment
from gateway.prompt.tool_prompt import add_tools_as_text, tool_definition
from gateway.prompt.tools import Function, ToolUse


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """`prompt` are token ids; `grammar` is Sampling's, empty for none; `syntax` is for the Generation."""

    prompt: list[int]
    grammar: str
    syntax: OutputSyntax | None


async def prepare_chat(
    model: ServedModel,
    grammars: GrammarService,
    messages: Sequence[Message],
    options: Mapping[str, Any],
    tools: ToolUse | None = None,
    output_format: OutputFormat | None = None,
    messages_param: str = "messages",
) -> PreparedChat:
    """`options` are variables of the chat template; `messages_param` is the parameter that holds the messages.

    Raises ApiError 400, which names the parameter, for messages that the template rejects and for schemas and grammars
    that cannot be served.
    """
    try:
        # In a thread, since a long prompt would hold the event loop.
        text, prompt = await asyncio.to_thread(_render_prompt, model, messages, options, tools)
    except ChatTemplateError as error:
        raise ApiError(400, str(error), param=messages_param, code="invalid_messages") from None
    reasoning = reasoning_after(text, model.reasoning_markers)
    content = await output_format.first_servable(grammars) if output_format else None
    calls = await _tool_call_rule(grammars, model, tools) if tools else None
    if calls or content:
        # Markers as text: the check knows no model's token ids.
        error = await grammars.find_error(build_output_grammar(content, reasoning, calls))
        if error:
            param = "tools" if calls else output_format.param if output_format else None
            raise ApiError(400, f"Together these cannot be served: {error}", param=param, code="invalid_value")
    grammar = build_output_grammar(content, reasoning, calls, model.marker_tokens)
    if reasoning is None and calls is None:
        return PreparedChat(prompt, grammar, None)
    names = tuple(function.name for function in tools.functions) if tools else ()
    call_format = calls.format if calls else None
    syntax = OutputSyntax(reasoning, call_format, names, named_tool=bool(tools and tools.named))
    return PreparedChat(prompt, grammar, syntax)


def template_inputs(
    model: ServedModel, messages: Sequence[Message], tools: ToolUse | None
) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """Returns the messages and the variable `tools` for the model's template.

    Where the template does not support tools, they and earlier calls become text in the messages.
    """
    if model.tool_call_format is None:
        return add_tools_as_text(messages, tools), None
    return list(messages), [tool_definition(function) for function in tools.functions] if tools else None


def _render_prompt(
    model: ServedModel, messages: Sequence[Message], options: Mapping[str, Any], tools: ToolUse | None
) -> tuple[str, list[int]]:
    messages, variable = template_inputs(model, messages, tools)
    text = model.render_chat(messages, options, variable)
    return text, model.encode(text)


async def _tool_call_rule(grammars: GrammarService, model: ServedModel, tools: ToolUse) -> ToolCallRule:
    arguments = [(function.name, await _arguments_fragment(grammars, function)) for function in tools.functions]
    return ToolCallRule(model.tool_call_format or HERMES, tuple(arguments), tools.required, tools.parallel)


async def _arguments_fragment(grammars: GrammarService, function: Function) -> GrammarFragment:
    """Without `strict`, arguments whose schema cannot be compiled at all may be any object."""
    schema = {"type": "object", **(function.parameters or {})}
    fragment, error = await first_compiling(schema_candidates(schema, function.strict), grammars)
    if fragment is None and function.strict:
        message = f"Invalid schema for function {function.name!r}: {error}"
        raise ApiError(400, message, param="tools", code="invalid_function_parameters")
    return fragment or json_fragment(ANY_OBJECT)
