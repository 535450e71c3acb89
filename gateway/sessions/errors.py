"""Exceptions that end a session before its last token.

`error_type` is the value of `error.type` in traces and `error` in the log. It stays the same when a class is renamed.
"""

from __future__ import annotations

from typing import ClassVar


class SessionError(Exception):
    """A session that cannot go on; the text says why."""

    error_type: ClassVar[str]


class RequestRejected(SessionError):
    """No verifier can ever serve this request; the text is a verifier's reason."""

    error_type = "Refused"


class GrammarFailed(SessionError):
    """The text so far follows the request's grammar, which cannot be followed any further; the text says why."""

    error_type = "GrammarFailed"


class Unavailable(SessionError):
    """No verifier served this in time; it may be tried again after `retry_after` seconds."""

    error_type = "Unavailable"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(Unavailable):
    """All verifiers run as many sessions as they accept."""

    error_type = "Crowded"


def error_type(error: BaseException) -> str:
    """The name under which traces and the log report an exception."""
    return error.error_type if isinstance(error, SessionError) else type(error).__name__
