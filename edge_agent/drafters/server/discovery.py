"""Model servers of this user that run on this machine, at the ports that they usually have.

Only loopback addresses are asked, and only servers that belong to the user who asks: on a machine that several people
use, another one's process may wait for prompts there.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection, Sequence
from functools import partial

import psutil

from edge_agent.drafters.server.connection import CheckedServer, connect
from edge_agent.drafters.server.http_client import ServerError, ServerUrl
from edgedraft.local.demo_model import DemoModelError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
USUAL_PORTS = (8080, 1234, 8000, 11434)  # llama-server, LM Studio, vLLM, Ollama
CONNECT_SECONDS = 0.2


def find_servers(
    tokenizer: str, ports: Sequence[int] = USUAL_PORTS, without: Collection[int] = ()
) -> tuple[list[tuple[ServerUrl, CheckedServer]], list[str]]:
    """The servers that can be drafted with, in the order of `ports`, and for each other one why not.

    `without` are ports that are something else, such as the gateway's.
    """
    found: list[tuple[ServerUrl, CheckedServer]] = []
    refused: list[str] = []
    for port in ports:
        if port in without or not _answers(port):
            continue
        url = ServerUrl("http", HOST, port)
        if not belongs_to_user(port):
            refused.append(f"{url.shown} is not a process of this user; --draft-url {url.shown} takes it all the same")
            continue
        try:
            found.append((url, connect(url, tokenizer, partial(belongs_to_user, port))))
        except (ServerError, DemoModelError, OSError) as error:
            refused.append(f"{url.shown}: {error}")
    return found, refused


def belongs_to_user(port: int) -> bool:
    """Whether the process that listens at this port is the user's own."""
    user = psutil.Process().username()
    try:
        listening = [c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and _is(port, c)]
    except (psutil.Error, OSError):  # macOS tells only root about all; each process may be asked for its own
        listening = [process.pid for process in psutil.process_iter() if _listens(process, port)]
    return bool(listening) and all(_owner(pid) == user for pid in listening)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _is(port: int, connection: object) -> bool:
    address = getattr(connection, "laddr", None)
    return bool(address) and address.port == port


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        return any(c.status == psutil.CONN_LISTEN and _is(port, c) for c in process.net_connections("tcp"))
    except psutil.Error:
        return False


def _owner(pid: int | None) -> str:
    try:
        return psutil.Process(pid).username() if pid is not None else ""
    except psutil.Error:
        return ""
