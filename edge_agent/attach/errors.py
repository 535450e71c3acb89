"""What it means that a gateway refuses or is lost, and what the user can do about it."""

from __future__ import annotations

from edgedraft import wire

UNKNOWN_KEY = "the gateway does not know this key: pass one that `edgedraft keys create` printed"
NO_SCOPE = "this key may not attach agents: make one with `edgedraft keys create --scopes edge`"
# Close codes and HTTP statuses that another attempt would get again.
FINAL: dict[int, str] = {
    401: UNKNOWN_KEY,
    403: NO_SCOPE,
    wire.UNAUTHORIZED: UNKNOWN_KEY,
    wire.FORBIDDEN: NO_SCOPE,
    wire.TOKENIZER_MISMATCH: "the gateway's model has another tokenizer than this draft model: get a draft that fits "
    "with `edgedraft draft fetch`, if the gateway offers one, or pass --draft-model with a small model of the same "
    "family, or with none to draft by prompt lookup alone",
    wire.VERSION: "the gateway speaks another version of the protocol: install the version of edgedraft that it runs",
}


class AttachRejected(Exception):
    """The gateway will not accept this agent as it is; the message tells the user what to do."""


class TokenizerMismatch(AttachRejected):
    """The gateway serves no model with this agent's tokenizer."""


class LinkLost(Exception):
    """There is no link, or no longer; another attempt may succeed."""


class GatewayMoved(LinkLost):
    """The gateway shuts down: another one accepts this agent now."""
