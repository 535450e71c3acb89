"""A chat with its tools and its format, made ready for a model: the prompt, the grammar and the reader of its output.

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
from gateway.output.events import MakeReader, PlainText
from gateway.output.parser import OutputParser
from gateway.output.part_reader import PartReader
from gateway.prompt.output_grammar import GrammarFragment, ToolCallRule, build_output_grammar, json_fragment
from gateway.prompt.structured_output import ANY_OBJECT, OutputFormat, json_candidates
from gateway.prompt.tool_prompt import add_tools_as_text, tool_definition
from gateway.prompt.tools import Function, ToolUse


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """`grammar` goes into Sampling, empty where nothing binds the output; `make_reader` into the Generation."""

    prompt: list[int]
    grammar: str
    make_reader: MakeReader


async def prepare_chat(
    model: ServedModel,
    grammars: GrammarService,
    messages: Sequence[Message],
    options: Mapping[str, Any],
    tools: ToolUse | None = None,
    wanted: OutputFormat | None = None,
    given_in: str = "messages",
) -> PreparedChat:
    """`options` are variables for the template; `given_in` is the parameter that the messages came in.

    Raises ApiError 400 for messages that the template does not take, and for schemas and grammars that cannot be
    served; it names the parameter.
    """
    try:
        # A long prompt takes a while; streams of others go on meanwhile.
        text, prompt = await asyncio.to_thread(_prompt, model, messages, options, tools)
    except ChatTemplateError as refusal:
        raise ApiError(400, str(refusal), param=given_in, code="invalid_messages") from None
    thinking = reasoning_after(text, model.reasoning_markers)
    content = await wanted.first_servable(grammars) if wanted else None
    calls = await _calls(grammars, model, tools) if tools else None
    if calls or content:
        problem = await grammars.find_error(build_output_grammar(content, thinking, calls, {}))
        if problem:
            param = "tools" if calls else wanted.param if wanted else None
            raise ApiError(400, f"Together these cannot be served: {problem}", param=param, code="invalid_value")
    grammar = build_output_grammar(content, thinking, calls, model.marker_tokens)
    if thinking is None and calls is None:
        return PreparedChat(prompt, grammar, PlainText)

    def make_reader() -> PartReader:
        names = [function.name for function in tools.functions] if tools else []
        parser = OutputParser(thinking, calls.format if calls else None, names)
        return PartReader(model, parser, thinking.end_marker if thinking else "", named=bool(tools and tools.named))

    return PreparedChat(prompt, grammar, make_reader)


def template_inputs(
    model: ServedModel, messages: Sequence[Message], tools: ToolUse | None
) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """The messages and the template's variable `tools` that tell this model of its tools, and of its earlier calls."""
    if model.tool_call_format is None:
        return add_tools_as_text(messages, tools), None
    return list(messages), [tool_definition(function) for function in tools.functions] if tools else None


def _prompt(
    model: ServedModel, messages: Sequence[Message], options: Mapping[str, Any], tools: ToolUse | None
) -> tuple[str, list[int]]:
    messages, variable = template_inputs(model, messages, tools)
    text = model.render_chat(messages, options, variable)
    return text, model.encode(text)


async def _calls(grammars: GrammarService, model: ServedModel, tools: ToolUse) -> ToolCallRule:
    arguments = [(function.name, await _arguments(grammars, function)) for function in tools.functions]
    return ToolCallRule(model.tool_call_format or HERMES, tuple(arguments), tools.required, tools.parallel)


async def _arguments(grammars: GrammarService, function: Function) -> GrammarFragment:
    """What the function's arguments may be; without `strict`, its schema as far as it can be kept to."""
    schema = {"type": "object", **(function.parameters or {})}
    problem = ""
    for body in json_candidates(schema, function.strict):
        problem = await grammars.find_error(build_output_grammar(body, None, None, {}))
        if not problem:
            return body
    if function.strict:
        message = f"Invalid schema for function {function.name!r}: {problem}"
        raise ApiError(400, message, param="tools", code="invalid_function_parameters")
    return json_fragment(ANY_OBJECT)
