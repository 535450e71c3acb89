"""Static files of a web page that the package contains, with the headers that keep a page to itself."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import Request
from starlette.responses import Response

from gateway.http.errors import ApiError

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    kind: str
    tag: str


class PageFiles:
    """The files of `page/` in a package, read once: those of the types that pages consist of, in all folders."""

    def __init__(self, package: str, headers: dict[str, str]) -> None:
        """`headers` are sent with each file beside HEADERS."""
        self._headers = HEADERS | headers
        self._files = dict(_read(files(package).joinpath("page"), ""))

    def response(self, request: Request, name: str) -> Response:
        """The file of that path within `page/`, or a 304. Raises ApiError 404."""
        file = self._files.get(name)
        if file is None:
            raise ApiError(404, f"Not Found: {request.method} {request.url.path}")
        headers = self._headers | {"etag": file.tag}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Response(file.body, media_type=file.kind, headers=headers)


def _read(folder: Traversable, prefix: str) -> list[tuple[str, _File]]:
    found: list[tuple[str, _File]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _read(entry, f"{prefix}{entry.name}/")
        elif kind := TYPES.get(f".{entry.name.rpartition('.')[2]}"):
            body = entry.read_bytes()
            found.append((prefix + entry.name, _File(body, kind, f'"{sha256(body).hexdigest()[:20]}"')))
    return found
