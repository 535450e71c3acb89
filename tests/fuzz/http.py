"""Fuzzes the HTTP ports of a verifier and a gateway, both processes, by raw sockets.

Requests are valid ones, mutated: heads, framing, chunks, upgrades, pipelines, cut anywhere, bytes changed. The server
must answer or end the connection in time, with no status of 5xx but 501, 503 and 505. Meanwhile an honest client asks
for /healthz.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryFile
from typing import Protocol

from tests.support.server_processes import KEY, ROOT, ServerUnderTest, running_servers

SIDE_BY_SIDE = 24
QUIET_SECONDS = 0.05  # without an answer, after which the client sends no more
END_SECONDS = 10.0  # from the client's end of its connection to the server's
GROWTH_MIB = 64
LONG_RUN = 50_000  # connections, from which on the wait is taken strictly
LONGEST_WAIT, LONGEST_WAIT_BESIDE_TESTS = 0.1, 2.0  # seconds that an honest client waits for /healthz
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
EXPECTED = {b"501", b"503", b"505"}
METHODS = (
    b"GET",
    b"POST",
    b"HEAD",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"PATCH",
    b"CONNECT",
    b"TRACE",
    b"PRI",
    b"get",
    b"\0",
)
PATHS = (
    b"/v1/chat/completions",
    b"/v1/completions",
    b"/healthz",
    b"/v1/models/",
    b"/metrics",
    b"/v1/agent",
    b"/v1/engine",
)
TARGETS = (b"*", b"//", b"/%00%ff", b"http://x/healthz", b"/?" + b"q" * 9000, b"", b"x:80", b"/\xff", b"/healthz#f")
VERSIONS = (
    (b"HTTP/1.1",) * 150 + (b"HTTP/1.0",) * 10 + (b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.1x", b"", b"http/1.1")
)
BODIES = (
    b'{"model": "markov", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}',
    b'{"model": "markov", "prompt": "hi", "max_tokens": 1, "stream": true}',
    b"{",
    b"",
    b"\xff" * 300,
    b" " * 70_000,
)
FIELDS = (
    b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__",
    b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: "
    + b"A" * 22
    + b"==",
    b"connection: close",
    b"connection: keep-alive",
    b"expect: 100-continue",
    b"content-encoding: gzip",
    b"content-encoding:",
    b"transfer-encoding: chunked",
    b"transfer-encoding: gzip, chunked",
    b"transfer-encoding: identity",
    b"content-length: 5",
    b"content-length: -1",
    b"content-length: 99999999999999999999",
    b"a: " + b"x" * 40_000,
    b"\r\n".join([b"a: b"] * 120),
    b"x\0y: z",
    b" folded",
    b"no colon",
    b": nothing",
    b"x-request-id: \xff",
    b"traceparent: 00-0-0-0",
)


def request(rng: Random) -> bytes:
    """One request, valid in most of its parts."""
    body = rng.choice(BODIES[:2] if rng.random() < 0.7 else BODIES)
    draw = rng.random()
    method = b"POST" if draw < 0.6 else b"GET" if draw < 0.9 else rng.choice(METHODS)
    target = rng.choice(PATHS if rng.random() < 0.95 else TARGETS)
    lines = [b"%b %b %b" % (method, target, rng.choice(VERSIONS)), b"host: x"]
    if rng.random() < 0.9:
        lines.append(b"authorization: Bearer " + KEY.encode())
    if rng.random() < 0.1:
        body = gzip.compress(body)
        lines.append(b"content-encoding: gzip")
    for _ in range(rng.choice((0, 0, 0, 0, 0, 1, 1, 2, 4))):
        lines.append(rng.choice(FIELDS[: 6 if rng.random() < 0.8 else None]))
    if rng.random() < 0.6:
        lines.append(b"content-length: %d" % max(0, len(body) + rng.choice((0,) * 20 + (1, -1))))
    elif rng.random() < 0.95:
        lines.append(b"transfer-encoding: chunked")
        body = chunked(rng, body)
    return b"\r\n".join(lines) + rng.choice((b"\r\n\r\n",) * 80 + (b"\n\n", b"\r\n", b"")) + body


def chunked(rng: Random, body: bytes) -> bytes:
    parts, at = [], 0
    while at < len(body) and len(parts) < 20:
        size = rng.randint(1, 1 + len(body))
        part = body[at : at + size]
        extension = rng.choice((b"",) * 60 + (b";a=b", b";" + b"x" * 40_000, b" ", b"\0"))
        parts.append(b"%x%b\r\n%b%b" % (len(part), extension, part, rng.choice((b"\r\n",) * 80 + (b"", b"\n"))))
        at += size
    end = rng.choice((b"0\r\n\r\n",) * 60 + (b"0\r\nt: u\r\n\r\n", b"", b"ffffffffffffffffff\r\n", b"-1\r\n"))
    return b"".join(parts) + end


def case(rng: Random) -> bytes:
    """What one connection sends: one or several requests, and of some of them other bytes."""
    sent = b"".join(request(rng) for _ in range(rng.choice((1, 1, 1, 2, 3, 30))))
    kind = rng.random()
    if kind < 0.15:
        sent = sent[: rng.randint(0, len(sent))]
    elif kind < 0.35 and sent:
        changed = bytearray(sent)
        for _ in range(rng.randint(1, 6)):
            changed[rng.randrange(min(len(changed), 600))] = rng.randrange(256)
        sent = bytes(changed)
    elif kind < 0.37:
        sent = rng.randbytes(rng.randint(1, 3000))
    return sent


async def send_case(server: ServerUnderTest, sent: bytes, rng: Random) -> tuple[list[bytes], str]:
    """The statuses of its responses, and what was wrong, if anything was."""
    reader, writer = await asyncio.open_connection(*server.address)
    got = b""
    try:
        with contextlib.suppress(OSError):
            for part in (sent[: (at := rng.randint(0, len(sent)))], sent[at:]):
                writer.write(part)
                await asyncio.sleep(0)
            while True:
                part = await asyncio.wait_for(reader.read(1 << 16), QUIET_SECONDS)
                got = (got + part)[-(1 << 18) :]
                if not part:
                    return STATUS.findall(got), ""
    except TimeoutError:
        pass
    try:
        with contextlib.suppress(OSError):
            writer.write_eof()
            async with asyncio.timeout(END_SECONDS):
                while part := await reader.read(1 << 16):
                    got = (got + part)[-(1 << 18) :]
    except TimeoutError:
        return STATUS.findall(got), "the connection was not ended"
    finally:
        writer.transport.abort()
    return STATUS.findall(got), ""


@contextlib.contextmanager
def honest_client(server: ServerUnderTest) -> Iterator[Callable[[], list[float]]]:
    """Asks beside the fuzzer. The call ends it and returns its waits in seconds, or raises RuntimeError."""
    with TemporaryFile("w+") as waits, TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "tests.fuzz.honest_client", server.address[0], str(server.address[1])]
        client = subprocess.Popen(command, cwd=ROOT, stdout=waits, stderr=errors)

        def end() -> list[float]:
            failed = client.poll() is not None
            client.kill()
            client.wait()
            errors.seek(0)
            if failed:
                raise RuntimeError(errors.read()[-500:])
            waits.seek(0)
            return [float(line) for line in waits.read().splitlines(keepends=True) if line.endswith("\n")]

        try:
            yield end
        finally:
            client.kill()
            client.wait()


class Counts(Protocol):
    """What of a Tally (__main__.py) is used here."""

    frames: int
    accepted: int
    rejected: int
    chats: int
    closes: Counter[int]

    def escape(self, error: BaseException | str, frame: bytes = b"") -> None: ...


async def fuzz_http(stats: Counts, count: int, rng: Random, folder: Path) -> None:
    """Sends `count` connections. Accepted are those with a 2xx, rejected the others."""
    longest_wait = LONGEST_WAIT if count >= LONG_RUN else LONGEST_WAIT_BESIDE_TESTS
    with running_servers(folder) as running, contextlib.ExitStack() as stack:
        servers = list(running.values())
        honest = {server.name: stack.enter_context(honest_client(server)) for server in servers}
        before = dict.fromkeys(running, 0)

        async def work(share: int, own: Random) -> None:
            for _ in range(share):
                sent, server = case(own), own.choice(servers)
                statuses, wrong = await send_case(server, sent, own)
                stats.frames += 1
                stats.accepted += any(status[:1] == b"2" for status in statuses)
                stats.rejected += not any(status[:1] == b"2" for status in statuses)
                for status in statuses:
                    stats.closes[int(status)] += 1
                    if status[:1] == b"5" and status not in EXPECTED:
                        stats.escape(f"{server.name}: {status.decode()}", sent)
                if wrong:
                    stats.escape(f"{server.name}: {wrong}", sent)

        for number, share in enumerate((max(1, count // 20), count - max(1, count // 20))):
            each = -(-share // SIDE_BY_SIDE)
            await asyncio.gather(*(work(each, Random(rng.random())) for _ in range(SIDE_BY_SIDE)))
            if not number:
                before = {name: server.memory() for name, server in running.items()}
        for name, server in running.items():
            grown = (server.memory() - before[name]) >> 20
            try:
                waits = sorted(honest[name]())
            except RuntimeError as error:
                stats.escape(f"{name}: the honest client failed: {error}")
                continue
            stats.chats += len(waits)
            shown = f"99.9 % within {waits[len(waits) * 999 // 1000] * 1e3:.0f} ms, all within {waits[-1] * 1e3:.0f} ms"
            print(f"  {name}: {grown:+} MiB, /healthz {len(waits)} times, {shown}", flush=True)
            if waits[-1] > longest_wait:
                stats.escape(f"{name} let an honest client wait for {waits[-1]:.3f} s")
            if grown > GROWTH_MIB:
                stats.escape(f"{name} grew by {grown} MiB")
            if "Traceback" in server.log.read_text():
                stats.escape(f"{name} logged a traceback: {server.log.read_text()[-1500:]}")
