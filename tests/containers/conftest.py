"""The images that `make images` built, run as the chart runs them; stores are outside, behind their sockets."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgedraft.local.demo_model import DEMO_MODEL, ensure_demo_model
from edgedraft.local.valkey import find_valkey
from tests.charts.rendering import NAMESPACE, Container, Document, container, of_kind, render
from tests.containers.engine import Engine, EngineError, Running, environment, restrictions, volumes, words_of
from tests.support.databases import new_postgres, running_postgres
from tests.support.waiting import wait_until

KEY = "ed-a-key-of-the-tests"
TOKEN = "a-token-of-the-tests"
LOAD_SECONDS = 240.0
INSIDE = "/run/stores"  # where containers see the stores' sockets

# Stores by Secrets, as in production, and a cache that contains the model.
VALUES = {
    "verifiers": {
        "demo": {
            "model": DEMO_MODEL,
            "modelCache": {"type": "claim", "existingClaim": "models", "readOnly": True},
            "settings": {"threads": 1},
        }
    },
    "database": {"existingSecret": "postgresql"},
    "redis": {"existingSecret": "valkey"},
}


@dataclass(frozen=True)
class Stores:
    """URLs as containers see them, and the flags that mount the sockets."""

    database: str
    redis: str
    mounts: tuple[str, ...]


@dataclass(frozen=True)
class Deployment:
    """The chart's containers in one network namespace."""

    engine: Engine
    documents: list[Document]
    network: Running
    stores: Stores
    folder: Path

    def start(
        self, found: Container, given: dict[str, str], folders: dict[str, Path], flags: Sequence[str] = ()
    ) -> Running:
        """A container with the chart's command, rights and variables; `given` are those from Secrets and fields."""
        entrypoint, words = words_of(found)
        flags = [*restrictions(found), *environment(found, given), *volumes(found, folders), *entrypoint, *flags]
        flags += ["--volume", f"{self.folder / 'hosts'}:/etc/hosts:ro"]
        return self.engine.start(self.network, found.container["name"], found.container["image"], flags, words)


@dataclass(frozen=True)
class Service:
    """A migrated database, a verifier with the demo model, and a gateway that is ready."""

    deployment: Deployment
    migration: Running
    verifier: Running
    gateway: Running


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    command = os.environ.get("EDGEDRAFT_CONTAINER_ENGINE", "")
    if not command:
        pytest.skip("runs with `make test-images`")
    engine = Engine(command, f"edgedraft-tests-{os.getpid()}")
    try:
        yield engine
    finally:
        engine.remove_all()


@pytest.fixture(scope="session")
def deployment(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    documents = render(VALUES)
    services = of_kind(documents, "Service")
    names = ["localhost", *services, *(f"{name}.{NAMESPACE}.svc.cluster.local" for name in services)]
    folder = tmp_path_factory.mktemp("containers")
    (folder / "hosts").write_text(f"127.0.0.1 {' '.join(names)}\n")  # in place of the cluster's DNS
    with _running_stores(folder) as stores:
        network = engine.start_network(container(documents, "gateway").container["image"])
        yield Deployment(engine, documents, network, stores, folder)
        engine.remove_all()


@pytest.fixture(scope="session")
def service(deployment: Deployment) -> Service:
    documents, stores = deployment.documents, deployment.stores
    database = {"EDGEDRAFT_DATABASE": stores.database}
    migration = deployment.start(container(documents, "migrate"), database, {}, stores.mounts)
    wait_until(lambda: not migration.state()["Running"], LOAD_SECONDS)
    given = {"EDGEDRAFT_VERIFIER_TOKEN": TOKEN}
    models = {"models": _readable_models(deployment.folder / "models")}
    verifier = deployment.start(container(documents, "verifier"), given, models)
    given |= database | {
        "EDGEDRAFT_REDIS": stores.redis,
        "EDGEDRAFT_REPLICA_SECRET": "a-secret-of-the-tests",
        "EDGEDRAFT_KEY": KEY,
        "POD_IP": "127.0.0.1",
    }
    gateway = deployment.start(container(documents, "gateway"), given, {}, stores.mounts)
    try:
        wait_until(lambda: probe(gateway, 8000, "/readyz") == 200, LOAD_SECONDS)
    except (TimeoutError, EngineError) as error:
        raise AssertionError(f"{verifier.log()}\n{gateway.log()}") from error
    return Service(deployment, migration, verifier, gateway)


def probe(container: Running, port: int, path: str) -> int:
    """The status that a probe of the kubelet would see; 0 where nobody listens."""
    script = (
        "import sys, urllib.error, urllib.request\n"
        "try: print(urllib.request.urlopen(sys.argv[1], timeout=5).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
        "except OSError: print(0)"
    )
    return int(container.execute("python", "-c", script, f"http://127.0.0.1:{port}{path}"))


def _readable_models(cache: Path) -> Path:
    """A model cache that the images' user can read; this user's own is for this user only."""
    own = ensure_demo_model()
    shutil.copytree(own, cache / "models" / own.name, copy_function=shutil.copyfile)
    return cache


@contextmanager
def _running_stores(folder: Path) -> Iterator[Stores]:
    """PostgreSQL and Valkey, whose sockets alone can be reached from the containers."""
    valkey_socket = folder / "valkey.sock"
    command = [find_valkey(), "--port", "0", "--unixsocket", str(valkey_socket), "--unixsocketperm", "777"]
    valkey = subprocess.Popen([*command, "--save", "", "--dir", str(folder)], stdout=subprocess.DEVNULL)
    try:
        with running_postgres() as server:
            url, _, host = new_postgres(server).partition("?host=")
            postgresql_socket = Path(host) / ".s.PGSQL.5432"
            wait_until(valkey_socket.exists)
            sockets = (postgresql_socket, valkey_socket)
            yield Stores(
                database=f"{url}?host={INSIDE}",
                redis=f"unix://{INSIDE}/{valkey_socket.name}",
                mounts=tuple(flag for each in sockets for flag in ("--volume", f"{each}:{INSIDE}/{each.name}")),
            )
    finally:
        valkey.terminate()
        valkey.wait(20)
