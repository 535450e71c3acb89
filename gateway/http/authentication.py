"""Authenticates a request: looks up the principal of its bearer key and checks the key's scope."""

from __future__ import annotations

import logging

from starlette.datastructures import Headers

from gateway.accounts import Accounts, Principal, key_digest
from gateway.http.errors import ApiError, database_down
from gateway.storage.database import DatabaseDown

log = logging.getLogger(__name__)

_CHALLENGE = {"www-authenticate": "Bearer"}


def bearer_key(headers: Headers) -> str:
    """Returns the bearer key of a request. Raises ApiError 401 if there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise ApiError(
            401,
            "You didn't provide an API key. Put it in the header: Authorization: Bearer KEY",
            code="invalid_api_key",
            headers=_CHALLENGE,
        )
    return key.strip()


async def authenticate(accounts: Accounts, headers: Headers, scope: str | None) -> Principal:
    """Returns the principal of a request that needs `scope`; with None any valid key suffices.

    Raises ApiError: 401 for a missing or wrong key, 403 for one without the scope, 503 when keys cannot be looked up.
    """
    return await authenticate_digest(accounts, key_digest(bearer_key(headers)), scope)


async def authenticate_digest(accounts: Accounts, digest: str, scope: str | None) -> Principal:
    """As `authenticate`, by the digest of the key."""
    try:
        principal = await accounts.find_by_digest(digest)
    except DatabaseDown as error:
        log.error("keys cannot be looked up reason=%s", error)
        raise database_down() from error
    if principal is None:
        raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key", headers=_CHALLENGE)
    if scope and scope not in principal.scopes:
        raise ApiError(403, f"This key has no {scope} scope.", code="insufficient_scope")
    return principal
