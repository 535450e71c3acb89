"""Finds out which API a model server has."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated

from msgspec import Meta, Struct

from edge_agent.drafters.server.api import ServerApi
from edge_agent.drafters.server.completions import Completions
from edge_agent.drafters.server.http_client import HttpClient, ServerError, UnexpectedAnswer
from edge_agent.drafters.server.llama_server import LlamaServer
from edge_agent.drafters.server.sglang import SGLang
from edge_agent.foreign_text import printable

# SGLang and llama-server also imitate the APIs of those below them.
APIS = (LlamaServer, SGLang)


class OllamaVersion(Struct):
    version: Annotated[str, Meta(max_length=64)]


class OllamaModel(Struct):
    name: Annotated[str, Meta(max_length=256)]


class OllamaModels(Struct):
    models: Annotated[list[OllamaModel], Meta(min_length=1, max_length=4096)]


class OllamaShow(Struct):
    modelfile: str


def identify(client: HttpClient) -> ServerApi:
    """The API of this server. Raises ServerError when it has none that can be drafted with, or fails."""
    for api in APIS:
        with suppress(UnexpectedAnswer):
            return api(client)
    _refuse_ollama(client)
    try:
        return Completions(client)
    except UnexpectedAnswer:
        raise ServerError("it has neither llama-server's API nor SGLang's nor /v1/completions") from None


def _refuse_ollama(client: HttpClient) -> None:
    """Raises ServerError when this is Ollama.

    Its API takes and returns texts, has no tokenizer endpoint, and names log-probabilities by text: which token ids it
    computed cannot be told, so a draft would be of other tokens than it seems, and the tokenizer cannot be checked.
    """
    try:
        client.get("/api/version", OllamaVersion)
    except UnexpectedAnswer:
        return
    file = "FILE"
    with suppress(ServerError):
        name = client.get("/api/tags", OllamaModels).models[0].name
        shown = client.post("/api/show", {"model": name}, OllamaShow).modelfile
        if found := re.search(r"^FROM (/\S+|[A-Za-z]:\\\S+)$", shown, re.MULTILINE):
            file = printable(found[1])
    raise ServerError(
        "it is Ollama, whose API has texts in place of token ids; draft with the file that it downloaded: "
        f"--draft-model {file} (`ollama show MODEL --modelfile` prints it after FROM)"
    )
