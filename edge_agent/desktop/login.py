"""`edgedraft login`: stores a gateway's URL and key in the user's configuration folder, readable by its owner only."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from pathlib import Path
from typing import TypeVar

import msgspec
from platformdirs import user_config_path

from edge_agent.attach.address import agent_url
from edge_agent.attach.connection import dial
from edge_agent.attach.errors import AttachRejected, LinkLost
from edge_agent.settings import GatewaySettings, LoginSettings
from edgedraft.private_files import make_private_folder, narrow

S = TypeVar("S", bound=GatewaySettings)


class Login(msgspec.Struct, frozen=True):
    url: str
    key: str


def main(settings: LoginSettings) -> None:
    """Check the key with the gateway, then store it. Exits with 1 when it is rejected or the gateway is unreachable."""
    key = settings.key
    if not key and sys.stdin.isatty():
        key = getpass.getpass("key: ").strip()
    if not key:
        sys.exit("edgedraft login: a key is needed: EDGEDRAFT_KEY, or --key-file")
    try:
        asyncio.run(_check_key(agent_url(settings.url), key))
    except (AttachRejected, LinkLost) as error:
        sys.exit(f"edgedraft login: {error}")
    print(f"edgedraft login kept in {save_login(Login(settings.url, key))}; `edgedraft attach` now needs no more")


def login_file() -> Path:
    return user_config_path("edgedraft") / "login.json"


def save_login(login: Login) -> Path:
    """Write the login file atomically, with mode 0600 from its first byte on; returns its path."""
    file = login_file()
    make_private_folder(file.parent)
    partial = file.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with open(partial, "wb", opener=lambda path, flags: os.open(path, flags | os.O_EXCL, 0o600)) as out:
        out.write(msgspec.json.format(msgspec.json.encode(login)) + b"\n")
    partial.replace(file)
    return file


def load_login() -> Login | None:
    """The stored login, or None. Raises AttachRejected when the file cannot be read."""
    try:
        narrow(login_file())
        return msgspec.json.decode(login_file().read_bytes(), type=Login)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise AttachRejected(f"{login_file()} cannot be read ({error}): run `edgedraft login` again") from None


def fill_from_login(settings: S) -> S:
    """Fill in a missing URL or key from the stored login; a stored key is used for its own gateway only.

    Raises AttachRejected when something is missing and no login has it.
    """
    if settings.url and settings.key:
        return settings
    login = load_login()
    if login is None or (settings.url and agent_url(settings.url) != agent_url(login.url)):
        lacking = "a key" if settings.url else "a gateway's URL"
        raise AttachRejected(
            f"{lacking} is needed: pass the URL, with EDGEDRAFT_KEY or --key-file, or once `edgedraft login URL`"
        )
    return settings.model_copy(update={"url": settings.url or login.url, "key": settings.key or login.key})


async def _check_key(url: str, key: str) -> None:
    link = await dial(url, key)
    await link.close()
