"""Checks responses against the openai package's models: required fields exist, and no field is misnamed.

The package reads leniently and fills in what is missing, so its models are made strict here: every field that a
response carries must be one of the model's or one of this gateway's own, and each has the model's type.
"""

from __future__ import annotations

from typing import Any, get_args

from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

OWN = {"metrics", "edgedraft", "root", "max_model_len"}  # at the root of an answer only


def complete_chat(document: dict[str, Any]) -> ChatCompletion:
    check_names(document, ChatCompletion, OWN)
    assert "usage" in document
    for choice in document["choices"]:
        assert {"message", "logprobs", "finish_reason", "index"} == set(choice)
        assert {"role", "content", "refusal"} <= set(choice["message"])
    return ChatCompletion.model_validate(document, strict=True)


def chat_chunk(document: dict[str, Any]) -> ChatCompletionChunk:
    check_names(document, ChatCompletionChunk, OWN)
    for choice in document["choices"]:
        assert {"delta", "logprobs", "finish_reason", "index"} == set(choice)
    return ChatCompletionChunk.model_validate(document, strict=True)


def completion(document: dict[str, Any]) -> Completion:
    """A complete completion or a chunk; the package has one model for both, which requires finish_reason."""
    check_names(document, Completion, OWN)
    choices = []
    for choice in document["choices"]:
        assert {"text", "logprobs", "finish_reason", "index"} == set(choice)
        choices.append(choice | {"finish_reason": choice["finish_reason"] or "stop"})
    return Completion.model_validate(document | {"choices": choices}, strict=True)


def model(document: dict[str, Any]) -> Model:
    check_names(document, Model, OWN)
    return Model.model_validate(document, strict=True)


def check_names(document: dict[str, Any], schema: type[BaseModel], own: set[str]) -> None:
    """Every key at every depth is a field of `schema`, or one of `own` at the root."""
    unknown = set(document) - set(schema.model_fields) - own
    assert not unknown, f"{schema.__name__} has no {unknown}"
    for name, value in document.items():
        if name not in own:
            for nested in _models(schema.model_fields[name].annotation):
                for item in value if isinstance(value, list) else [value]:
                    if isinstance(item, dict):
                        check_names(item, nested, set())


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models in a field's type; of a union of models only where there is no more than one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found = [model for inner in get_args(annotation) for model in _models(inner)]
    return found if len(found) == 1 else []
