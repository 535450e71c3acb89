"""Validates a JSON body against a request's schema; the error names the first invalid parameter.

Unknown parameters are ignored, because clients keep adding new ones. Known parameters that would change the output and
are not supported are rejected by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticKnownError

from gateway.http.bodies.json_text import parse_object
from gateway.http.errors import ApiError

MAX_NAME = 200  # characters of a parameter's name in an error

# What pydantic's errors say was expected, by their type.
_EXPECTED = {
    "string_type": "a string",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
}

R = TypeVar("R", bound="Schema")


def _whole_number(value: Any) -> Any:
    """JSON has one kind of number: 5.0 is the integer 5."""
    return int(value) if type(value) is float and value.is_integer() else value


Integer = Annotated[int, BeforeValidator(_whole_number), Field(ge=-(2**63), le=2**63 - 1)]


def at_most(count: int) -> BeforeValidator:
    """Refuses an object of more entries before any of them is validated: each at fault would be an error of its own."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > count:
            context = {"field_type": "Dictionary", "max_length": count, "actual_length": len(value)}
            raise PydanticKnownError("too_long", context)
        return value

    return BeforeValidator(check)


class Schema(BaseModel):
    """Base of request schemas: strict (no number from a string), without NaN or infinity, immutable."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


def read_object(body: bytes) -> dict[str, Any]:
    """Parses a JSON object, in which half a surrogate pair becomes U+FFFD. Raises ApiError 400 for anything else."""
    try:
        return parse_object(body)
    except ValueError as error:
        raise ApiError(400, str(error)) from None


def refuse_unserved(raw: Mapping[str, Any], unserved: Mapping[str, Callable[[Any], bool]]) -> None:
    """Raises ApiError 400 if `raw` has an unsupported parameter with a value that would change the output.

    `unserved` maps the parameter's name to a predicate: whether a value leaves the output unchanged.
    """
    for name, is_neutral in unserved.items():
        if raw.get(name) is not None and not is_neutral(raw[name]):
            raise ApiError(400, f"{name} is not supported with this value.", param=name, code="unsupported_parameter")


def validated(schema: type[R], raw: Mapping[str, Any], within: str = "") -> R:
    """Validates `raw`. Raises ApiError 400 that names the invalid parameter.

    `within` is the path of `raw` in the body.
    """
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        place, message = _first_fault(error.errors(include_url=False, include_input=False), raw)
        # Parts of the path may be keys that the client chose, of any length.
        param = ".".join([within, *place] if within else place)[:MAX_NAME]
        raise ApiError(400, f"{param}: {message}", param=param, code="invalid_value") from None


def _first_fault(errors: Sequence[ErrorDetails], raw: Any) -> tuple[list[str], str]:
    """Returns the path of the first invalid value in `raw`, and what is wrong with it.

    Of a value that may have several types, pydantic reports errors of each. The type that the value has counts, and of
    several the one with the fewest errors, the deepest of them; if it has none of them, the message names them all.
    """
    first = errors[0]
    place, value = _lead_in(raw, first["loc"])
    depth = len(place)
    if depth == len(first["loc"]) or (depth == len(first["loc"]) - 1 and first["type"] == "missing"):
        return [str(part) for part in first["loc"]], _message(first)
    branches: dict[int | str, list[ErrorDetails]] = {}
    for error in errors:
        if error["loc"][:depth] == place and len(error["loc"]) > depth:
            branches.setdefault(error["loc"][depth], []).append(error)
    of_its_type = [
        branch
        for branch in branches.values()
        if len(branch[0]["loc"]) > depth + 1 or branch[0]["type"] not in _EXPECTED
    ]
    if of_its_type:
        best = min(
            of_its_type,
            key=lambda branch: (
                len(branch),
                branch[0]["type"] != "too_long",
                -len(branch[0]["loc"]),
                [-_number(part) for part in branch[0]["loc"]],
            ),
        )
        within: list[ErrorDetails] = [{**error, "loc": error["loc"][depth + 1 :]} for error in best]
        rest, message = _first_fault(within, value)
    else:
        expected = dict.fromkeys(_EXPECTED[branch[0]["type"]] for branch in branches.values())
        rest, message = [], f"Input should be {' or '.join(expected)}"
    return [*map(str, place), *rest], message


def _lead_in(value: Any, path: Sequence[int | str]) -> tuple[tuple[int | str, ...], Any]:
    """Returns the beginning of an error's path that leads to a part of `value`, and that part.

    What follows it names a branch of a union, or a key that is missing.
    """
    found: Any = value
    for depth, part in enumerate(path):
        if (isinstance(found, dict) and part in found) or (isinstance(found, list) and isinstance(part, int)):
            found = cast(Any, found)[part]
        else:
            return tuple(path[:depth]), found
    return tuple(path), found


def _number(part: int | str) -> int:
    return part if isinstance(part, int) else 0


def _message(error: ErrorDetails) -> str:
    expected = _EXPECTED.get(error["type"])
    return f"Input should be {expected}" if expected else error["msg"]


def empty(value: Any) -> bool:
    return not value


def one_of(*neutral: Any) -> Callable[[Any], bool]:
    return lambda value: value in neutral
