"""The parameters of POST /v1/completions beside the shared ones: prompts as text or tokens, one or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator

from edgedraft.wire import MAX_TOP_LOGPROBS
from gateway.api.parameters import UNSERVED, Parameters
from gateway.http.bodies.validation import Integer, empty, refuse_unserved, validated
from gateway.http.errors import ApiError
from gateway.limits.request_bounds import MAX_BEST_OF, MAX_PROMPTS
from gateway.model.served_model import ServedModel
from gateway.prompt.structured_output import StructuredOutputParameters

DEFAULT_OUTPUT = 16  # tokens, if the request sets no limit (OpenAI's default)
MAX_TOKEN = 2**31 - 1

_TokenList = list[Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKEN)]]


def _whole_numbers(value: Any) -> Any:
    """As Integer of gateway/http/bodies/validation.py, for many at once."""
    if isinstance(value, list) and float in set(map(type, value)):
        return [int(number) if type(number) is float and number.is_integer() else number for number in value]
    return value


def _validate_tokens(value: Any, one_by_one: ValidatorFunctionWrapHandler) -> Any:
    """msgspec takes a fifth of pydantic's time; pydantic says which item does not fit, if one does not."""
    with suppress(msgspec.ValidationError):
        return msgspec.convert(value, _TokenList)
    numbers = _whole_numbers(value)
    with suppress(msgspec.ValidationError):
        return msgspec.convert(numbers, _TokenList)
    return one_by_one(numbers)


# Validation ends at the first item that does not fit: a prompt may have as many as MAX_JSON_VALUES.
Tokens = Annotated[
    list[Annotated[int, Field(ge=0, le=MAX_TOKEN)]], Field(fail_fast=True), WrapValidator(_validate_tokens)
]
Texts = Annotated[list[str], Field(max_length=MAX_PROMPTS, fail_fast=True)]
TokenLists = Annotated[list[Tokens], Field(max_length=MAX_PROMPTS, fail_fast=True)]


class CompletionRequest(Parameters, StructuredOutputParameters):
    """A completion's parameters."""

    prompt: str | Texts | Tokens | TokenLists | None = None
    logprobs: Annotated[Integer, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    best_of: Annotated[Integer, Field(ge=1, le=MAX_BEST_OF)] | None = None
    echo: bool | None = None

    @property
    def output_limit(self) -> int | None:
        return self.max_tokens or DEFAULT_OUTPUT

    @property
    def alternatives(self) -> int:
        if self.logprobs is not None:
            return self.logprobs
        return 0 if self.candidates > self.choices else -1

    @property
    def candidates(self) -> int:
        """How many texts are generated for each prompt; the best of them are the choices."""
        return self.best_of or self.choices

    @property
    def prompts(self) -> list[str | list[int]]:
        """One entry per prompt. Without a prompt there is one that is empty: the beginning of a new document."""
        prompt: Any = self.prompt or ""
        return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else list(prompt)


_UNSERVED: dict[str, Callable[[Any], bool]] = UNSERVED | {
    "suffix": empty,
    "prompt_embeds": empty,
    "response_format": lambda value: isinstance(value, dict) and value.get("type") == "text",
}


def parse_completion_request(raw: Mapping[str, Any]) -> CompletionRequest:
    """Raises ApiError 400 that names the parameter at fault."""
    refuse_unserved(raw, _UNSERVED)
    request = validated(CompletionRequest, raw)
    if request.candidates < request.choices:
        raise ApiError(400, "best_of must be at least n.", param="best_of", code="invalid_value")
    if request.stream and request.candidates > request.choices:
        raise ApiError(400, "best_of above n cannot be streamed.", param="best_of", code="invalid_value")
    if request.echo and request.logprobs is not None:
        message = "Log-probabilities of the prompt are not served: leave out echo or logprobs."
        raise ApiError(400, message, param="logprobs", code="unsupported_parameter")
    if len(request.prompts) * request.candidates > MAX_PROMPTS:
        message = f"One request may ask for {MAX_PROMPTS} texts: prompts times best_of or n."
        raise ApiError(400, message, param="prompt", code="invalid_value")
    return request


def check_tokens(model: ServedModel, tokens: Sequence[int], param: str = "prompt") -> None:
    """Raises ApiError 400 if there are none or one is outside the vocabulary."""
    if (largest := max(tokens, default=0)) >= model.vocab_size:
        message = f"{param}: token {largest} is outside the vocabulary of {model.vocab_size}."
        raise ApiError(400, message, param=param, code="invalid_value")
    if not tokens:
        raise ApiError(400, f"{param} is empty.", param=param, code="invalid_value")
