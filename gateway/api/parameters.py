"""The parameters that all generating endpoints share: their bounds, and their translation to wire.Sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from edgedraft.wire import Sampling
from gateway.http.bodies.validation import Integer, Schema, at_most, empty, one_of
from gateway.http.errors import ApiError
from gateway.limits.request_bounds import (
    MAX_CHOICES,
    MAX_LOGIT_BIAS,
    MAX_METADATA,
    MAX_METADATA_KEY,
    MAX_METADATA_VALUE,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
)

_MIN_TEMPERATURE = 1e-6  # lower temperatures count as 0: in float32 the result is the same

Bias = Annotated[float, Field(ge=-100, le=100)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=MAX_METADATA_KEY)], Annotated[str, Field(max_length=MAX_METADATA_VALUE)]],
    at_most(MAX_METADATA),
]


class StreamOptions(Schema):
    include_usage: bool | None = None


class EdgeOptions(Schema):
    """EdgeDraft's extension: with `edge` false no agent gets the prompt."""

    edge: bool = True


class Parameters(Schema):
    """The parameters of every generation; null means the default."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[Integer, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[Integer, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Integer | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    n: Annotated[Integer, Field(ge=1, le=MAX_CHOICES)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    logit_bias: Annotated[dict[str, Bias], at_most(MAX_LOGIT_BIAS)] | None = None
    service_tier: Annotated[str, Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[Integer, Field(ge=0, le=2**31 - 1)] | None = None
    edgedraft: EdgeOptions | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def edge(self) -> bool:
        return self.edgedraft is None or self.edgedraft.edge

    @property
    def output_limit(self) -> int | None:
        """The maximum number of output tokens, if the request sets one."""
        return self.max_tokens

    @property
    def alternatives(self) -> int:
        """The number of alternatives per token with log-probabilities; -1 without log-probabilities."""
        return -1

    @property
    def tier(self) -> dict[str, str]:
        """The response's root field `service_tier`, present if the request has it. There is one tier."""
        return {"service_tier": "default"} if self.service_tier else {}

    def sampling(self, vocab_size: int) -> Sampling:
        """Returns all but the seed (each choice has its own) and the grammar. Raises ApiError 400."""
        if self.min_tokens and self.output_limit and self.min_tokens > self.output_limit:
            message = f"min_tokens {self.min_tokens} is above the limit of {self.output_limit} output tokens."
            raise ApiError(400, message, param="min_tokens", code="invalid_value")
        return Sampling(
            temperature=_temperature(self.temperature),
            top_k=max(0, self.top_k or 0),
            # top_p 0 keeps only the most probable token, as does any value below that token's probability.
            top_p=1.0 if self.top_p is None else max(self.top_p, 1e-9),
            min_p=self.min_p or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            logit_bias={_biased(key, vocab_size): bias for key, bias in (self.logit_bias or {}).items()},
            min_tokens=self.min_tokens or 0,
        )


def _temperature(value: float | None) -> float:
    if value is None:
        return 1.0
    return value if value > _MIN_TEMPERATURE else 0.0


def _biased(key: str, vocab_size: int) -> int:
    """Returns the token id of a key of logit_bias. Raises ApiError 400."""
    if not (key.isascii() and key.isdecimal() and len(key) < 12 and int(key) < vocab_size):
        raise ApiError(
            400,
            f"logit_bias: {key[:40]!r} is no token id; they are 0 to {vocab_size - 1}.",
            param="logit_bias",
            code="invalid_value",
        )
    return int(key)


# Unsupported parameters that would change the output: name -> whether a value leaves it unchanged.
UNSERVED: dict[str, Callable[[Any], bool]] = {
    "stop_token_ids": empty,
    "bad_words": empty,
    "allowed_token_ids": empty,
    "use_beam_search": empty,
    "moderation": lambda value: False,
    "length_penalty": one_of(1),
    "prompt_logprobs": lambda value: False,
    "truncate_prompt_tokens": lambda value: False,
    "include_stop_str_in_output": empty,
    "skip_special_tokens": one_of(True),
}
