"""The tools of a request: which the model can be given, under which names, and which are left out.

The gateway executes no tools, it only returns calls to the client. Functions and custom tools are served, in namespaces
too; OpenAI's hosted tools, which a server would execute, are left out, and the response says so
(`edgedraft.left_out_tools`). Only a tool_choice that asks for one of them is an error.

Source: https://platform.openai.com/docs/api-reference/responses/create: tools, tool_choice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.api.responses.custom_input import INPUT
from gateway.http.bodies.validation import Schema, validated
from gateway.http.errors import ApiError
from gateway.limits.request_bounds import MAX_FUNCTION_NAME, MAX_GRAMMAR_CHARACTERS, MAX_NAME_CHARACTERS, MAX_TOOLS
from gateway.prompt.structured_output import NamedSchema, ResponseFormat
from gateway.prompt.tools import Function, FunctionName, TextFunction, Tool, ToolUse, resolve_tool_use

_SEPARATOR = "__"  # between a namespace and a tool's name
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_DIGEST = 8  # hexadecimal digits in a name that was too long


class _FunctionTool(Schema):
    """A function; the fields that chat completions nest under `function` are at the root."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _TextFormat(Schema):
    type: Literal["text"]


class _GrammarFormat(Schema):
    type: Literal["grammar"]
    syntax: Literal["lark", "regex"]
    definition: str


class _CustomTool(Schema):
    """A tool whose argument is one text, which may have to follow a grammar."""

    type: Literal["custom"]
    name: FunctionName
    description: str | None = None
    format: Annotated[_TextFormat | _GrammarFormat, Field(discriminator="type")] | None = None


class _Namespace(Schema):
    type: Literal["namespace"]
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]
    description: str = ""
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)]


class _NamedChoice(Schema):
    type: Literal["function", "custom"]
    name: str
    namespace: str | None = None


class _AllowedChoice(Schema):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS, fail_fast=True)]


@dataclass(frozen=True, slots=True)
class Origin:
    """How the client knows a tool."""

    name: str
    namespace: str | None = None
    custom: bool = False


@dataclass(slots=True)
class ToolSet:
    """`functions` are those that the model is given, `origins` tells what they are by their name there.

    `left_out` are types of tools that it is not given. `echo` is what the response repeats: the tools that it is given,
    since clients whose types are strict cannot read every type of tool.
    """

    functions: list[Function] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    echo: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, given: Sequence[dict[str, Any]]) -> ToolSet:
        """Raises ApiError 400 for tools that are invalid."""
        tools = cls()
        for number, tool in enumerate(given):
            tools.echo += tools._add(tool, f"tools.{number}", None)
        if len(tools.functions) > MAX_TOOLS:
            raise ApiError(400, f"tools: at most {MAX_TOOLS}.", param="tools", code="invalid_value")
        if sum(len(f.lark) for f in tools.functions if isinstance(f, TextFunction)) > MAX_GRAMMAR_CHARACTERS:
            message = f"tools: their grammars may have {MAX_GRAMMAR_CHARACTERS} characters together."
            raise ApiError(400, message, param="tools", code="invalid_value")
        return tools

    def use(self, choice: str | dict[str, Any] | None, parallel: bool | None) -> ToolUse | None:
        """Returns how the model may use the tools; None if it may call none. Raises ApiError 400."""
        if not self.functions and choice in (None, "auto", "none"):
            return None
        if not self.functions and self.left_out and choice == "required":
            message = f"None of the tools is served: {', '.join(self.left_out)}."
            raise ApiError(400, message, param="tool_choice", code="unsupported_tool")
        chat_tools = [Tool.model_construct(type="function", function=function) for function in self.functions]
        return resolve_tool_use(chat_tools, self._chat_choice(choice), parallel)

    def origin_of(self, name: str) -> Origin:
        return self.origins.get(name) or Origin(name)

    def _add(self, tool: dict[str, Any], param: str, namespace: str | None) -> list[dict[str, Any]]:
        """Returns what the response repeats of the tool: nothing of one that is left out."""
        match tool.get("type"):
            case "function":
                function = validated(_FunctionTool, tool, param)
                self._serve(
                    Function(
                        name=tool_name(function.name, namespace),
                        description=function.description,
                        parameters=function.parameters,
                        strict=function.strict,
                    ),
                    Origin(function.name, namespace),
                )
                return [function.model_dump() | {"strict": bool(function.strict)}]
            case "custom":
                custom = validated(_CustomTool, tool, param)
                function = _custom_function(custom, tool_name(custom.name, namespace))
                self._serve(function, Origin(custom.name, namespace, custom=True))
                return [custom.model_dump(exclude_none=True)]
            case "namespace" if namespace is None:
                group = validated(_Namespace, tool, param)
                first = len(self.functions)
                inner = [
                    kept
                    for n, one in enumerate(group.tools)
                    for kept in self._add(one, f"{param}.tools.{n}", group.name)
                ]
                self._describe(first, group.description)
                return [group.model_dump() | {"tools": inner}]
            case str() as kind:
                kind = kind[:MAX_FUNCTION_NAME]
                if kind not in self.left_out:
                    self.left_out.append(kind)
                return []
            case _:
                raise ApiError(400, f"{param}.type is missing.", param=f"{param}.type", code="invalid_value")

    def _serve(self, function: Function, origin: Origin) -> None:
        self.functions.append(function)
        self.origins[function.name] = origin

    def _describe(self, number: int, namespace: str) -> None:
        """What is said of a namespace stands before the description of its first function, if it has one."""
        if namespace and number < len(self.functions):
            function = self.functions[number]
            description = f"{namespace}\n{function.description or ''}".strip()
            self.functions[number] = function.model_copy(update={"description": description})

    def _chat_choice(self, choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        """Raises ApiError 400 for a choice of a tool that the model is not given."""
        if choice is None or isinstance(choice, str):
            return choice
        match choice.get("type"):
            case "function" | "custom":
                return self._chat_named(choice, "tool_choice")
            case "allowed_tools":
                allowed = validated(_AllowedChoice, choice, "tool_choice")
                served = [tool for tool in allowed.tools if tool.get("type") not in self.left_out]
                if allowed.tools and not served and allowed.mode == "auto":
                    return "none"
                tools = [self._chat_named(tool, f"tool_choice.tools.{n}") for n, tool in enumerate(served)]
                return {"type": "allowed_tools", "allowed_tools": {"mode": allowed.mode, "tools": tools}}
            case other:
                served_choices = "none, auto, required, a function, a custom tool, or allowed_tools"
                message = f"tool_choice {str(other)[:40]!r} is not supported: {served_choices}."
                raise ApiError(400, message, param="tool_choice", code="unsupported_tool")

    def _chat_named(self, choice: Mapping[str, Any], param: str) -> dict[str, Any]:
        named = validated(_NamedChoice, choice, param)
        return {"type": "function", "function": {"name": tool_name(named.name, named.namespace)}}


def tool_name(name: str, namespace: str | None) -> str:
    """A tool's name as the model sees it: always the same for a tool, whatever others there are."""
    if not namespace:
        return name
    space = _NOT_IN_NAMES.sub("_", namespace)
    joined = f"{space}{name}" if space.endswith(_SEPARATOR) else f"{space}{_SEPARATOR}{name}"
    if len(joined) <= MAX_FUNCTION_NAME:
        return joined
    digest = sha256(joined.encode()).hexdigest()[:_DIGEST]
    return f"{joined[: MAX_FUNCTION_NAME - _DIGEST - 1]}_{digest}"


def chat_format(given: dict[str, Any] | None) -> ResponseFormat | None:
    """`text.format` as chat completions' response_format. Raises ApiError 400."""
    if given is None:
        return None
    fields = dict(given)
    kind = fields.pop("type", None)
    if kind not in ("text", "json_object", "json_schema"):
        message = "text.format.type: text, json_object or json_schema."
        raise ApiError(400, message, param="text.format.type", code="invalid_value")
    if kind != "json_schema":
        return ResponseFormat(type=kind)
    if fields.get("schema") is None:
        raise ApiError(400, "text.format.schema is missing.", param="text.format.schema", code="invalid_value")
    return ResponseFormat(type=kind, json_schema=validated(NamedSchema, fields, "text.format"))


def _custom_function(tool: _CustomTool, name: str) -> Function:
    """A custom tool as a function of one text, whose description shows the grammar."""
    text: dict[str, Any] = {"type": "string"}
    rule = tool.format if isinstance(tool.format, _GrammarFormat) else None
    if rule and rule.syntax == "lark":
        text["description"] = f"A text by this Lark grammar:\n{rule.definition}"
        parameters = _object_of(text)
        return TextFunction(
            name=name, description=tool.description, parameters=parameters, argument=INPUT, lark=rule.definition
        )
    if rule:
        text["pattern"] = f"^(?:{rule.definition.removeprefix('^').removesuffix('$')})$"
    return Function(name=name, description=tool.description, parameters=_object_of(text), strict=True)


def _object_of(text: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {INPUT: text}, "required": [INPUT], "additionalProperties": False}
