"""HTTP/1.1 and 1.0 for ASGI apps under uvicorn, by the llhttp parser, with bounds on all that a peer may send.

uvicorn's own protocols have no bounds on a head's fields or on trailers, no deadlines, lose the body of a request that
offers an upgrade, and send HTTP/1.0 clients chunks. This one is given to uvicorn.Config(http=...), and hands WebSocket
connections to uvicorn's protocol for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.server import ServerState

from edgedraft.serving import http_bounds as bounds
from edgedraft.serving.http_exchange import Exchange, error_response
from edgedraft.serving.unread_watch import UnreadWatch


class _Refused(Exception):
    """Ends the parsing: raised in the parser's callbacks, which hide it behind an error of their own."""


class HttpConnection(asyncio.Protocol):
    """One connection. Requests run one after the other; reading stops while one that was pipelined has to wait."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self._config = config
        self._server = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self.writable = asyncio.Event()
        self.writable.set()
        self._read_paused = False
        self._deadline: asyncio.TimerHandle | None = None  # of a head, of an idle connection, of a farewell
        self._idle = False  # the deadline is an idle connection's
        self._unparsed = b""  # received while the parser has to wait
        self._running: Exchange | None = None  # the latest whose turn it is; None before the first
        self._arriving: Exchange | None = None  # the latest whose head is complete
        self._waiting: deque[Exchange] = deque()
        self._refusal: int | None = None  # the status of the last response, once the input cannot be served
        self._ending = False  # nothing more is parsed
        self._discarded = 0  # bytes since
        self._parser = self._new_parser()
        self._begin_head()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        return self._server.default_headers

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._unread = UnreadWatch(self._loop, transport.get_write_buffer_size, self.abort)
        self._server.connections.add(self)  # type: ignore[arg-type]
        server, client = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        self._addresses = tuple(
            (str(a[0]), int(a[1])) if isinstance(a, (tuple, list)) else None for a in (server, client)
        )
        self._scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self._arm(bounds.HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)  # type: ignore[arg-type]
        self._disarm()
        self._unread.stop()
        self._ending = True
        self._unparsed = b""
        self._waiting.clear()
        del self._parser  # it refers to this object
        for exchange in (self._running, self._arriving):
            if exchange and not exchange.complete:
                exchange.disconnected = True
                exchange.arrived.set()
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        if self._ending:
            self._discarded += len(data)
            if self._discarded > bounds.LINGER_BYTES:
                self.abort()
            return
        self._unparsed = self._unparsed + data if self._unparsed else data
        self._parse()

    def pause_writing(self) -> None:
        self.writable.clear()
        self._unread.start()

    def resume_writing(self) -> None:
        self.writable.set()
        self._unread.stop()

    def eof_received(self) -> None:
        """The peer has closed, or sends nothing more: these cannot be told apart, so running work is cancelled."""
        self._close()

    def shutdown(self) -> None:
        """uvicorn's server closes: what is running is finished."""
        if self._running is None or self._running.complete:
            self._close()
        else:
            self._running.keep_alive = False

    # what an exchange uses

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def abort(self) -> None:
        self._transport.abort()

    def body_taken(self) -> None:
        # While it is being parsed, the body of `_arriving` only grows: the app's tasks run later.
        self._parse()

    def response_complete(self, exchange: Exchange) -> None:
        self._server.total_requests += 1
        if self._transport.is_closing():
            return
        if not exchange.keep_alive:
            if exchange.more_body:
                self._linger()
            else:
                self._close()
            return
        if self._waiting:
            self._start(self._waiting.popleft())
        elif self._refusal:
            self._refuse()
            return
        self._parse()

    # parsing

    def _parse(self) -> None:
        """Parse what is here, as far as nothing has to wait for the app; stop reading where something does."""
        if self._unparsed and not self._must_wait():
            data, at = memoryview(self._unparsed), 0
            while at < len(data) and not self._must_wait():
                at += self._parse_part(data[at : at + (bounds.BODY_SLICE if self._in_body else bounds.SLICE)])
            self._unparsed = b"" if self._ending else bytes(data[at:])
        if self._transport.is_closing():
            return
        # Behind the last request nothing is parsed, but a disconnect is to be seen.
        self._pause_reading(self._must_wait() and not self._ending)
        if not self._ending:
            self._watch()

    def _pause_reading(self, pause: bool) -> None:
        if pause != self._read_paused:
            self._read_paused = pause
            (self._transport.pause_reading if pause else self._transport.resume_reading)()

    def _watch(self) -> None:
        """Set the deadline of what the peer is to do next: none while a response is awaited from the app."""
        running, arriving = self._running, self._arriving
        if running and not running.complete:
            self._disarm()
        elif self._in_head or (arriving and arriving.more_body):  # or a body that nobody wants
            if self._idle or not self._deadline:
                self._arm(bounds.HEAD_SECONDS)
        elif running and not self._idle:
            self._arm(self._config.timeout_keep_alive, idle=True)

    def _must_wait(self) -> bool:
        if self._ending or self._waiting:
            return True
        arriving = self._arriving
        return arriving is not None and not arriving.complete and len(arriving.body) > bounds.MAX_UNREAD_BODY

    def _parse_part(self, part: bytes | memoryview) -> int:
        """Returns how much of `part` was parsed."""
        self._framing_bytes += len(part)
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserUpgrade as upgrade:
            self._take_upgrade()
            return upgrade.args[0]
        except httptools.HttpParserError:
            if not self._ending:
                self._end_input(self._refusal or 400)
        else:
            if self._framing_bytes > bounds.MAX_HEAD and not self._ending:
                self._end_input(431)
        return len(part)

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What follows a request with `Connection: close` is ignored by us (on_message_begin), and is not an error.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _begin_head(self) -> None:
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0  # of the target and complete fields
        self._field_count = 0
        self._framing_bytes = 0  # given to the parser since a head, a part of a body or a message ended
        self._in_head = self._in_body = False

    def _refuse_as(self, status: int) -> _Refused:
        self._refusal = status
        return _Refused()

    # the parser's callbacks

    def on_message_begin(self) -> None:
        if self._ending:
            raise _Refused
        if len(self._waiting) >= bounds.MAX_PIPELINED:
            raise self._refuse_as(429)
        self._begin_head()
        self._in_head = True

    def on_url(self, part: bytes) -> None:
        self._target += part
        self._head_bytes = len(self._target)
        if self._head_bytes > bounds.MAX_TARGET:
            raise self._refuse_as(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._field_count += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._field_count > bounds.MAX_FIELDS or self._head_bytes > bounds.MAX_HEAD:
            raise self._refuse_as(431)
        if not self._in_body:  # trailers are of no use here
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._framing_bytes = 0
        if self._parser.should_upgrade():
            return  # feed_data raises HttpParserUpgrade next
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise self._refuse_as(505)
        url = httptools.parse_url(self._target)
        raw_path = url.path or b"/"
        path = raw_path.decode("ascii")
        server, client = self._addresses
        scope = {
            "type": "http",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": server,
            "client": client,
            "scheme": self._scheme,
            "method": self._parser.get_method().decode("ascii"),
            "root_path": self._config.root_path,
            "path": self._config.root_path + (unquote(path) if "%" in path else path),
            "raw_path": self._config.root_path.encode() + raw_path,
            "query_string": url.query or b"",
            "headers": self._fields,
            "state": self._app_state.copy(),
        }
        fields = dict(self._fields)
        keep_alive = self._parser.should_keep_alive()
        if version == "1.0" and b"transfer-encoding" in fields:
            keep_alive = False  # RFC 9112, section 6.1
        expects = version == "1.1" and fields.get(b"expect", b"").lower() == b"100-continue"
        exchange = self._arriving = Exchange(self, scope, keep_alive, expects)
        self._in_head, self._in_body = False, True
        self._field_count = self._head_bytes = 0  # from here on those of trailers
        if self._running is None or self._running.complete:
            self._start(exchange)
        else:
            self._waiting.append(exchange)

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        exchange = self._arriving
        if exchange and not exchange.complete:
            exchange.body += body
            exchange.arrived.set()

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        self._framing_bytes, self._in_body = 0, False
        exchange = self._arriving
        assert exchange
        exchange.more_body = False
        exchange.arrived.set()
        if not exchange.keep_alive:
            self._ending = True

    # what follows from it

    def _start(self, exchange: Exchange) -> None:
        self._running = exchange
        self._disarm()  # here, since nothing more is watched once a request has said that it is the last one
        task = self._loop.create_task(exchange.run(self._config.loaded_app))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    def _take_upgrade(self) -> None:
        """Hand over a WebSocket handshake. Other offers are ignored (RFC 9110, section 7.8): parse on without them."""
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._end_input(501)
            return
        fields = dict(self._fields)
        version = self._parser.get_http_version()
        framed = b"content-length" in fields or b"transfer-encoding" in fields
        wanted = fields.get(b"upgrade", b"").strip().lower() == b"websocket" and version == "1.1"
        if wanted and method == b"GET" and not framed:
            if self._running is None or self._running.complete:
                self._upgrade_to_websocket()
            else:
                self._end_input(400)  # pipelined behind another request
            return
        self._parser = self._new_parser()
        kept = [(name, value) for name, value in self._fields if name != b"upgrade"]
        self._parse_part(_head(method, self._target, version.encode(), kept))

    def _upgrade_to_websocket(self) -> None:
        protocol_class: Any = self._config.ws_protocol_class
        self._ending = True
        self._disarm()
        self._unread.stop()
        self._pause_reading(False)
        self._server.connections.discard(self)  # type: ignore[arg-type]
        protocol = protocol_class(config=self._config, server_state=self._server, app_state=self._app_state)
        protocol.connection_made(self._transport)
        protocol.data_received(_head(b"GET", self._target, b"1.1", self._fields))
        self._transport.set_protocol(protocol)
        if not protocol.handshake_initiated:  # it has shorter lines than this class, and would wait for ever
            protocol.handshake_complete = protocol.close_sent = True
            protocol.transport.write(error_response(431, self.default_headers))
            protocol.transport.close()

    def _end_input(self, status: int) -> None:
        """Parse nothing more. The refusal is the last response, after those to earlier requests."""
        self._ending = True
        self._unparsed = b""
        self._refusal = status
        arriving = self._arriving
        if arriving and self._in_body and not arriving.complete:
            # The body cannot be read to its end: there is no next request, and the app learns it by a disconnect.
            self._waiting = deque(e for e in self._waiting if e is not arriving)
            if arriving is self._running:
                arriving.disconnected = True
                arriving.arrived.set()
                if arriving.started:
                    self.abort()
                else:
                    self._refuse()
                return
        if self._running is None or self._running.complete:
            self._refuse()

    def _refuse(self) -> None:
        assert self._refusal
        self._transport.write(error_response(self._refusal, self.default_headers))
        self._linger()

    def _linger(self) -> None:
        """Close once the peer can have read the response: closing with unread input would reset the connection."""
        if self._transport.is_closing():
            return
        self._ending, self._unparsed = True, b""
        self._arm(bounds.LINGER_SECONDS)
        self._pause_reading(False)
        with suppress(OSError, NotImplementedError):
            self._transport.write_eof()

    def _arm(self, seconds: float, idle: bool = False) -> None:
        self._disarm()
        self._idle = idle
        self._deadline = self._loop.call_later(seconds, self._close if idle else self.abort)

    def _close(self) -> None:
        """Close once all is sent, or abort if it is not read in time."""
        self._arm(bounds.UNREAD_SECONDS)
        self._transport.close()

    def _disarm(self) -> None:
        self._idle = False
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None


def _head(method: bytes, target: bytes, version: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
    lines = [b"%b %b HTTP/%b\r\n" % (method, target, version)]
    lines += [b"%b: %b\r\n" % field for field in fields]
    return b"".join((*lines, b"\r\n"))
