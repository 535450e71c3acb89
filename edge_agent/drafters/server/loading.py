"""A model server as a LoadedModel, from the settings or from those that were found."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_agent.drafters.loaded_model import LoadedModel
from edge_agent.drafters.server.connection import CheckedServer, ServerConnection, connect
from edge_agent.drafters.server.drafter import ServerDrafter
from edge_agent.drafters.server.http_client import ServerError, ServerUrl, parse_server_url
from edge_agent.foreign_text import printable
from edge_agent.settings import DraftServerSettings

log = logging.getLogger(__name__)


def load_server(settings: DraftServerSettings) -> LoadedModel:
    """Connect to --draft-url. Raises ValueError when it cannot be drafted with."""
    url = parse_server_url(settings.draft_url, settings.draft_key)
    if url.scheme == "http" and not url.is_local:
        log.warning("%s is not encrypted: your prompts can be read on the way there", url.shown)
    try:
        return server_model(url, connect(url, settings.draft_tokenizer), settings.draft_tokenizer)
    except ServerError as error:
        raise ValueError(str(error)) from None


def server_model(
    url: ServerUrl, checked: CheckedServer, tokenizer: str, may_connect: Callable[[], bool] = lambda: True
) -> LoadedModel:
    """A server that was checked; `may_connect` as for ServerConnection."""
    connection = ServerConnection(url, tokenizer, checked, may_connect)
    facts = checked.api.facts
    return LoadedModel(
        new_drafter=lambda vocab_size: ServerDrafter(connection, vocab_size),
        fingerprint=checked.fingerprint,
        description=f"{printable(facts.model) or 'a model'} by {facts.kind} at {url.shown}",
        device=facts.kind,
    )
