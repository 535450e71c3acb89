"""The process that parses large bodies: json_body.py asks, msgpack of the object is the answer.

It imports little, since the request that starts it is charged for that: a web framework takes half a second to load.
"""

from __future__ import annotations

import msgspec

from edgedraft.workers.child import serve
from gateway.http.bodies.json_text import parse_object


def parse_body(body: bytes, setup: object) -> bytes:
    """Raises ValueError for what is no JSON object, and OverflowError for integers beyond 64 bits."""
    return msgspec.msgpack.encode(parse_object(body))


if __name__ == "__main__":
    serve(parse_body)
