"""The parameters of POST /v1/completions beside the shared ones: prompts as text or tokens, one or several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from edgedraft.wire import MAX_TOP_LOGPROBS
from gateway.api.parameters import UNSERVED, Parameters
from gateway.http.errors import ApiError
from gateway.http.validation import empty, read_object, refuse_unserved, validated
from gateway.model.served_model import ServedModel
from gateway.prompt.structured_output import StructuredOutputParameters

DEFAULT_OUTPUT = 16  # tokens, if the request sets no limit (OpenAI's default)
MAX_PROMPTS = 128
MAX_BEST_OF = 20

Token = Annotated[int, Field(ge=0, le=2**31 - 1)]
Tokens = Annotated[list[Token], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
TokenLists = Annotated[list[Tokens], Field(min_length=1, max_length=MAX_PROMPTS)]


class CompletionRequest(Parameters, StructuredOutputParameters):
    """A completion's parameters."""

    prompt: str | Texts | Tokens | TokenLists
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_BEST_OF)] | None = None
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
        """One entry per prompt."""
        match self.prompt:
            case [int(), *_]:
                return [self.prompt]  # type: ignore[list-item]
            case list():
                return list(self.prompt)  # type: ignore[arg-type]
        return [self.prompt]


_UNSERVED: dict[str, Callable[[Any], bool]] = UNSERVED | {
    "suffix": empty,
    "prompt_embeds": empty,
    "response_format": lambda value: isinstance(value, dict) and value.get("type") == "text",
}


def parse_completion_request(body: bytes) -> CompletionRequest:
    """Raises ApiError 400 that names the parameter at fault."""
    raw = read_object(body)
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


def prompt_tokens(model: ServedModel, prompt: str | list[int], param: str = "prompt") -> list[int]:
    """Returns a prompt's tokens. Raises ApiError 400 if it is empty or a token is outside the vocabulary."""
    if isinstance(prompt, str):
        tokens = model.tokenizer.encode(prompt).ids
    else:
        tokens = prompt
        if (largest := max(tokens, default=0)) >= model.vocab_size:
            message = f"{param}: token {largest} is outside the vocabulary of {model.vocab_size}."
            raise ApiError(400, message, param=param, code="invalid_value")
    if not tokens:
        raise ApiError(400, f"{param} is empty.", param=param, code="invalid_value")
    return tokens
