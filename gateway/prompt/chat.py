"""Prepares a chat with its tools and its output format for a model: the prompt, the grammar and the output's syntax.

Chat completions and responses share it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgedraft.grammar.service import GrammarChecker
from gateway.http.errors import ApiError
from gateway.model.prompt_jobs import Message
from gateway.model.reasoning import reasoning_after
from gateway.model.served_model import ServedModel
from gateway.model.tool_call_format import HERMES
from gateway.output.parser import OutputSyntax
from gateway.prompt.json_schema import SchemaTooLarge, check_size
from gateway.prompt.json_string_grammar import text_argument_fragment
from gateway.prompt.output_format import ANY_OBJECT, OutputFormat
from gateway.prompt.output_grammar import GrammarFragment, ToolCallRule, build_output_grammar, json_fragment
from gateway.prompt.preparation import PromptPreparation
from gateway.prompt.schema_fragment import MAX_LEFT_OUT, FittedSchema, schema_fragment
from gateway.prompt.tools import Function, TextFunction, ToolUse


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """`prompt` are token ids, `grammar` is Sampling's, empty for none; the others are the Generation's."""

    prompt: list[int]
    grammar: str
    syntax: OutputSyntax | None
    left_out: tuple[str, ...] = ()


async def prepare_chat(
    model: ServedModel,
    prompts: PromptPreparation,
    grammars: GrammarChecker,
    messages: Sequence[Message],
    options: Mapping[str, Any],
    tools: ToolUse | None = None,
    output_format: OutputFormat | None = None,
    messages_param: str = "messages",
) -> PreparedChat:
    """`options` are variables of the chat template; `messages_param` is the parameter that holds the messages.

    Raises ApiError 400, which names the parameter, for messages that the template rejects and for schemas and grammars
    that cannot be served, 503 without workers; JobRefused and WorkersUnavailable.
    """
    for function in tools.functions if tools else ():
        _check_size(function)
        await asyncio.sleep(0)
    rendered = await prompts.render(model, messages, options, tools, messages_param)
    reasoning = reasoning_after(rendered.ending, model.reasoning_markers)
    form = await output_format.servable(grammars) if output_format else None
    content = form.fragment if form else None
    left_out = list(form.left_out) if form else []
    calls = await _tool_call_rule(grammars, model, tools, left_out) if tools else None
    if calls or content:
        # Markers as text: the check knows no model's token ids.
        error = await grammars.find_error(build_output_grammar(content, reasoning, calls))
        if error:
            param = "tools" if calls else output_format.param if output_format else None
            raise ApiError(400, f"Together these cannot be served: {error}", param=param, code="invalid_value")
    grammar = build_output_grammar(content, reasoning, calls, model.marker_tokens)
    if reasoning is None and calls is None:
        return PreparedChat(rendered.tokens, grammar, None, tuple(left_out))
    names = tuple(function.name for function in tools.functions) if tools else ()
    call_format = calls.format if calls else None
    syntax = OutputSyntax(reasoning, call_format, names, named_tool=bool(tools and tools.named))
    return PreparedChat(rendered.tokens, grammar, syntax, tuple(left_out[:MAX_LEFT_OUT]))


def _check_size(function: Function) -> None:
    """Raises ApiError 400 for a schema that is too large, which nothing else has looked into."""
    try:
        check_size(function.parameters or {})
    except SchemaTooLarge as error:
        raise _invalid_schema(function, str(error)) from None


async def _tool_call_rule(
    grammars: GrammarChecker, model: ServedModel, tools: ToolUse, left_out: list[str]
) -> ToolCallRule:
    """Adds to `left_out` what is not kept of the functions' schemas."""
    arguments: list[tuple[str, GrammarFragment]] = []
    for function in tools.functions:
        fitted = await _fit_arguments(grammars, function)
        assert fitted.fragment
        arguments.append((function.name, fitted.fragment))
        left_out += [f"tools.{function.name}#{place}" for place in fitted.left_out]
        await asyncio.sleep(0)
    return ToolCallRule(model.tool_call_format or HERMES, tuple(arguments), tools.required, tools.parallel)


async def _fit_arguments(grammars: GrammarChecker, function: Function) -> FittedSchema:
    """With a fragment. Without `strict`, arguments whose schema cannot be compiled at all may be any object."""
    if isinstance(function, TextFunction):
        return FittedSchema(await _text_fragment(grammars, function))
    schema = {**(function.parameters or {}), "type": "object"}
    fitted = await schema_fragment(schema, bool(function.strict), grammars)
    if fitted.fragment is None and function.strict:
        raise _invalid_schema(function, fitted.error)
    return fitted if fitted.fragment else FittedSchema(json_fragment(ANY_OBJECT), "", ("",))


def _invalid_schema(function: Function, reason: str) -> ApiError:
    message = f"Invalid schema for function {function.name!r}: {reason}"
    return ApiError(400, message, param="tools", code="invalid_function_parameters")


async def _text_fragment(grammars: GrammarChecker, function: TextFunction) -> GrammarFragment:
    """Raises ApiError 400 for a grammar that cannot be served."""
    try:
        fragment = await asyncio.to_thread(text_argument_fragment, function.argument, function.lark)
        error = await grammars.find_error(build_output_grammar(fragment))
    except ValueError as refused:
        fragment, error = None, str(refused)
    if fragment is None or error:
        message = f"Invalid grammar for tool {function.name!r}: {error}"
        raise ApiError(400, message, param="tools", code="invalid_function_parameters")
    return fragment
