"""A Kubernetes control plane on loopback: etcd, API server, controllers and scheduler, from a folder of their programs.

Nothing runs containers.
"""

from __future__ import annotations

import base64
import secrets
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.charts.rendering import Document
from tests.support.waiting import wait_until

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
START_SECONDS = 180.0
# Nodes here send no heartbeats.
WITHOUT = ("node-lifecycle-controller", "taint-eviction-controller")


@dataclass
class ControlPlane:
    """A client of the API server with every right."""

    http: httpx.Client
    kubeconfig: str
    _paths: dict[tuple[str, str], str] = field(default_factory=dict)  # of apiVersion and kind, up to the namespace

    def path(self, document: Document, namespace: str = "") -> str:
        """Where an object is created; its own namespace wins."""
        version, kind = document["apiVersion"], document["kind"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if (version, kind) not in self._paths:
            for resource in self.get(root)["resources"]:
                scope = "/namespaces/{}" if resource["namespaced"] else ""
                if "/" not in resource["name"]:
                    self._paths[version, resource["kind"]] = f"{root}{scope}/{resource['name']}"
        return self._paths[version, kind].format(document["metadata"].get("namespace", namespace))

    def get(self, path: str, **query: str) -> dict[str, Any]:
        return self.http.get(path, params=query).raise_for_status().json()

    def list(self, path: str, **query: str) -> list[Document]:
        return self.get(path, **query)["items"]

    def create(self, document: Document, namespace: str = "", **query: str) -> httpx.Response:
        """The server's answer. Unknown and repeated fields are errors, unless the query says otherwise."""
        query = {"fieldValidation": "Strict"} | query
        return self.http.post(self.path(document, namespace), json=document, params=query)

    def ensure(self, *documents: Document) -> None:
        """Creates what is not there."""
        for document in documents:
            answer = self.create(document)
            assert answer.status_code in {201, 409}, answer.text

    def report(self, path: str, status: dict[str, Any]) -> httpx.Response:
        """Writes an object's status, as its controller or kubelet does."""
        kind = {"content-type": "application/merge-patch+json"}
        return self.http.patch(f"{path}/status", json={"status": status}, headers=kind)


@contextmanager
def running_control_plane(programs: Path, folder: Path) -> Iterator[ControlPlane]:
    """One of its own, empty. Logs are in the folder. Raises TimeoutError."""
    with ExitStack() as stack:

        def start(name: str, *flags: str) -> None:
            log = stack.enter_context((folder / f"{name}.log").open("w"))
            process = subprocess.Popen([programs / name, *flags], stdout=log, stderr=subprocess.STDOUT)
            stack.callback(_stop, process)

        store, peers, secure, controllers, scheduler = (_free_port() for _ in range(5))
        certificates, token = folder / "certificates", secrets.token_hex(16)
        etcd, url = f"http://127.0.0.1:{store}", f"https://127.0.0.1:{secure}"
        start(
            "etcd",
            *("--data-dir", str(folder / "etcd"), "--unsafe-no-fsync"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd),
            *("--listen-peer-urls", f"http://127.0.0.1:{peers}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peers}"),
            *("--initial-cluster", f"default=http://127.0.0.1:{peers}"),
        )
        (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
        key = str(certificates / "apiserver.key")  # the server makes it before it reads it
        start(
            "kube-apiserver",
            *("--etcd-servers", etcd, "--bind-address", "127.0.0.1", "--secure-port", str(secure)),
            *("--cert-dir", str(certificates), "--token-auth-file", str(folder / "tokens.csv")),
            *("--service-account-issuer", "https://kubernetes.default.svc"),
            *("--service-account-signing-key-file", key, "--service-account-key-file", key),
            *("--service-cluster-ip-range", "10.0.0.0/24", "--endpoint-reconciler-type", "none"),
            *("--authorization-mode", "RBAC", "--allow-privileged"),
        )
        certificate = certificates / "apiserver.crt"
        wait_until(lambda: _listens(secure), START_SECONDS)
        trust = ssl.create_default_context(cafile=certificate)
        headers = {"authorization": f"Bearer {token}"}
        http = stack.enter_context(httpx.Client(base_url=url, headers=headers, verify=trust, timeout=180))
        wait_until(lambda: http.get("/readyz").status_code == 200, START_SECONDS)
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(_kubeconfig(url, certificate.read_bytes(), token))
        common = ("--kubeconfig", str(kubeconfig), "--leader-elect=false", "--bind-address", "127.0.0.1")
        start(
            "kube-controller-manager",
            *(*common, "--secure-port", str(controllers)),
            *("--service-account-private-key-file", key, "--root-ca-file", str(certificate)),
            *("--controllers", ",".join(["*", *(f"-{each}" for each in WITHOUT)])),
        )
        start("kube-scheduler", *common, "--secure-port", str(scheduler))
        yield ControlPlane(http, kubeconfig.read_text())


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _kubeconfig(url: str, certificate: bytes, token: str) -> str:
    authority = base64.b64encode(certificate).decode()
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority-data": authority}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {"token": token}}],
        }
    )
