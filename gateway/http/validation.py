"""Validates a JSON body against a request's schema; the error names the first invalid parameter.

Unknown parameters are ignored, because clients keep adding new ones. Known parameters that would change the output and
are not supported are rejected by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from gateway.http.errors import ApiError

_UNION_BRANCH = re.compile(r"(constrained-)?str|list\[.*")  # as pydantic names branches; of no use to a client

MAX_NAME = 200  # characters of a parameter's name in an error

R = TypeVar("R", bound="Schema")


class Schema(BaseModel):
    """Base of request schemas: strict (no number from a string), without NaN or infinity, immutable."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


def read_object(body: bytes) -> dict[str, Any]:
    """Parses a JSON object. Raises ApiError 400 for anything else."""
    try:
        raw = from_json(body, allow_inf_nan=True)
    except ValueError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ApiError(400, "The body must be a JSON object.")
    return raw


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
        first = error.errors(include_url=False, include_input=False)[0]
        place = [str(part) for part in first["loc"] if not _UNION_BRANCH.fullmatch(str(part))]
        # Parts of the path may be keys that the client chose, of any length.
        param = ".".join([within, *place] if within else place)[:MAX_NAME]
        raise ApiError(400, f"{param}: {first['msg']}", param=param, code="invalid_value") from None


def empty(value: Any) -> bool:
    return not value


def one_of(*neutral: Any) -> Callable[[Any], bool]:
    return lambda value: value in neutral
