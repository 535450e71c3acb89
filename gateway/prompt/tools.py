"""The request parameters for tools: which functions the model may call, and whether it has to.

gateway/model/tool_call_format.py says how calls are written, tool_prompt.py there how the prompt describes functions.

Source: OpenAI API reference, "Create chat completion": tools, tool_choice, parallel_tool_calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.http.bodies.validation import Schema, validated
from gateway.http.errors import ApiError
from gateway.limits.request_bounds import MAX_FUNCTION_NAME, MAX_TOOLS

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$", max_length=MAX_FUNCTION_NAME)]


class Function(Schema):
    """A function; `parameters` is the JSON schema of its arguments."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextFunction(Function):
    """A function whose arguments are the one text `argument`, which follows a grammar of the client's in Lark."""

    argument: str
    lark: str


class Tool(Schema):
    """A tool. Functions are the only type that is served."""

    type: Literal["function"]
    function: Function


Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The functions that may be called.

    With `required`, at least one of them has to be; `named` says that the request chose this one by its name.
    """

    functions: tuple[Function, ...]
    required: bool = False
    named: bool = False
    parallel: bool = True


class _Named(Schema):
    name: str


class _NamedChoice(Schema):
    type: Literal["function"]
    function: _Named


class _Allowed(Schema):
    mode: Literal["auto", "required"]
    tools: Annotated[list[_NamedChoice], Field(max_length=MAX_TOOLS, fail_fast=True)]


class _AllowedChoice(Schema):
    type: Literal["allowed_tools"]
    allowed_tools: _Allowed


def tool_definition(function: Function) -> dict[str, Any]:
    """Returns a function in the form that templates and prompts show."""
    definition: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        definition["description"] = function.description
    return {"type": "function", "function": {**definition, "parameters": function.parameters or {}}}


def resolve_tool_use(tools: Sequence[Tool], choice: Any, parallel: bool | None) -> ToolUse | None:
    """Returns how the tools may be used, None where none may be called. Raises ApiError 400."""
    functions = {tool.function.name: tool.function for tool in tools}
    if len(functions) < len(tools):
        raise _invalid("tools", "Two tools have the same name.")
    if not tools:
        if choice in (None, "none", "auto"):
            return None
        raise _invalid("tool_choice", "tool_choice is only allowed when tools are specified.")
    for tool in tools:
        _check_root(tool.function)
    allow_parallel = parallel is not False
    if choice in (None, "auto", "required"):
        return ToolUse(tuple(functions.values()), required=choice == "required", parallel=allow_parallel)
    if choice == "none":
        return None
    if not isinstance(choice, dict) or choice.get("type") not in ("function", "allowed_tools"):
        raise _invalid("tool_choice", "tool_choice is none, auto, required, a function, or allowed_tools.")
    if choice["type"] == "function":
        name = validated(_NamedChoice, choice, "tool_choice").function.name
        return ToolUse(_select(functions, [name]), required=True, named=True, parallel=False)
    allowed = validated(_AllowedChoice, choice, "tool_choice").allowed_tools
    names = [tool.function.name for tool in allowed.tools]
    if not names:
        raise _invalid("tool_choice", "allowed_tools names no tool.")
    return ToolUse(_select(functions, names), required=allowed.mode == "required", parallel=allow_parallel)


def _check_root(function: Function) -> None:
    """Arguments are an object: a schema of anything else could not be fulfilled by a call."""
    kind = (function.parameters or {}).get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        message = f"Invalid schema for function {function.name!r}: the type of its root has to be 'object'."
        raise ApiError(400, message, param="tools", code="invalid_function_parameters")


def _select(functions: dict[str, Function], names: Sequence[str]) -> tuple[Function, ...]:
    for name in names:
        if name not in functions:
            raise _invalid("tool_choice", f"Tool choice {name!r} is not one of the tools.")
    return tuple(functions[name] for name in dict.fromkeys(names))


def _invalid(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_value")
