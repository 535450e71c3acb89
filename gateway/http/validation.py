"""A JSON body against a request's schema; the first thing that is wrong is named.

Unknown parameters pass, for clients keep adding new ones. Parameters that are known and would change the answer are
never dropped in silence: where they are not served, they are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from gateway.http.errors import ApiError

_UNION_BRANCH = re.compile(r"(constrained-)?str|list\[.*")  # pydantic's names for them, of no use to a client

MAX_NAME = 200  # characters of a parameter's name in an error

R = TypeVar("R", bound="Schema")


class Schema(BaseModel):
    """What requests are made of: no number from a string, no NaN, nothing changed once read."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


def read_object(body: bytes) -> dict[str, Any]:
    """Raises ApiError 400 when the body is no JSON object."""
    try:
        raw = from_json(body, allow_inf_nan=True)
    except ValueError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ApiError(400, "The body must be a JSON object.")
    return raw


def refuse_unserved(raw: Mapping[str, Any], unserved: Mapping[str, Callable[[Any], bool]]) -> None:
    """`unserved` holds names with what tells whether a value leaves the answer as it is. Raises ApiError 400."""
    for name, is_neutral in unserved.items():
        if raw.get(name) is not None and not is_neutral(raw[name]):
            raise ApiError(400, f"{name} is not supported with this value.", param=name, code="unsupported_parameter")


def validated(schema: type[R], raw: Mapping[str, Any], within: str = "") -> R:
    """Raises ApiError 400 that names the parameter at fault, `within` the one that `raw` came in."""
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = [str(part) for part in first["loc"] if not _UNION_BRANCH.fullmatch(str(part))]
        # Clients name parts of some parameters.
        param = ".".join([within, *place] if within else place)[:MAX_NAME]
        raise ApiError(400, f"{param}: {first['msg']}", param=param, code="invalid_value") from None


def empty(value: Any) -> bool:
    return not value


def one_of(*neutral: Any) -> Callable[[Any], bool]:
    return lambda value: value in neutral
