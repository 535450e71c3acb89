"""As much of a Kubernetes API server as Helm's engine needs to install and upgrade: objects are kept, nothing runs.

Jobs are over as soon as they are made, well or badly as one says. It knows no schema: Helm leaves validation to others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import yaml
from helm_python import Config

from tests.charts.rendering import NAMESPACE, Document

# Group to the kinds of its v1; "" is the core's.
KINDS = {
    "": ("Secret", "ConfigMap", "Service", "ServiceAccount", "Pod"),
    "apps": ("Deployment", "StatefulSet"),
    "batch": ("Job",),
    "leaderworkerset.x-k8s.io": ("LeaderWorkerSet",),
    "networking.k8s.io": ("NetworkPolicy", "Ingress"),
    "policy": ("PodDisruptionBudget",),
}
LOOK_SECONDS = 0.02
WATCH_SECONDS = 10.0


@dataclass
class Cluster:
    """What was done to it, in order, as `put Kind/name` and `delete Kind/name`, and what is there."""

    helm: Config
    jobs_succeed: bool = True
    done: list[str] = field(default_factory=list)
    objects: dict[str, Document] = field(default_factory=dict)  # by the path that each is read at

    def find(self, kind: str, name: str) -> Document:
        (found,) = [o for o in self.objects.values() if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        return found

    def put(self, path: str, given: Document) -> Document:
        version = str(len(self.done) + 1)
        given["metadata"] |= {"uid": version, "resourceVersion": version, "generation": 1}
        if given["kind"] == "Job":
            given["status"] = _job_status(self.jobs_succeed)
        self.objects[path] = given
        self.done.append(f"put {given['kind']}/{given['metadata']['name']}")
        return given

    def delete(self, path: str) -> Document | None:
        if gone := self.objects.pop(path, None):
            self.done.append(f"delete {gone['kind']}/{gone['metadata']['name']}")
        return gone


@contextmanager
def cluster() -> Iterator[Cluster]:
    """An empty one, and Helm's connection to it."""

    class Handler(_Handler):
        discovery = _discovery()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    url = f"http://127.0.0.1:{server.server_port}"
    with Config(
        kubeconfig_content=_kubeconfig(url), namespace=NAMESPACE, storage_driver="memory", qps=1000.0, burst_limit=1000
    ) as helm:
        Handler.cluster = Cluster(helm)
        Thread(target=server.serve_forever, args=(LOOK_SECONDS,), daemon=True).start()
        try:
            yield Handler.cluster
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body leave together: apart they would wait for each other's acknowledgement
    cluster: Cluster
    discovery: dict[str, Any]

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/openapi/v2":
            self._answer(None)  # asked for as a protobuf message, of which nothing is the empty one
        elif "watch=true" in query:
            self._watch(path)
        else:
            self._answer(self.discovery.get(path) or self.cluster.objects.get(path) or _MISSING)

    def do_PATCH(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self._answer(self.cluster.put(self.path.partition("?")[0], yaml.load(body, yaml.CSafeLoader)))

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._answer(self.cluster.delete(self.path.partition("?")[0]) or _MISSING)

    def _answer(self, found: dict[str, Any] | None) -> None:
        body = b"" if found is None else json.dumps(found).encode()
        self.send_response(404 if found is _MISSING else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _watch(self, path: str) -> None:
        """Tell what is there and what comes, until the other side has heard enough."""
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        said: set[str] = set()
        until = time.monotonic() + WATCH_SECONDS
        try:
            while time.monotonic() < until:
                for at, found in list(self.cluster.objects.items()):
                    if at.startswith(path + "/") and at not in said:
                        said.add(at)
                        self._say("ADDED", found)
                        self._say("BOOKMARK", _all_said(found))
                time.sleep(LOOK_SECONDS)
        except OSError:
            pass

    def _say(self, what: str, about: Document) -> None:
        line = json.dumps({"type": what, "object": about}).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


_MISSING = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


def _all_said(last: Document) -> Document:
    version = last["metadata"]["resourceVersion"]
    marks = {"resourceVersion": version, "annotations": {"k8s.io/initial-events-end": "true"}}
    return {"kind": last["kind"], "apiVersion": last["apiVersion"], "metadata": marks}


def _job_status(well: bool) -> dict[str, Any]:
    condition = {"type": "Complete" if well else "Failed", "status": "True"}
    ended = {"completionTime": "2026-01-01T00:00:01Z", "succeeded": 1} if well else {"failed": 1}
    return {"startTime": "2026-01-01T00:00:00Z", "conditions": [condition], **ended}


def _discovery() -> dict[str, Any]:
    groups = [group for group in KINDS if group]
    versions = {group: [{"groupVersion": f"{group}/v1", "version": "v1"}] for group in groups}
    answers: dict[str, Any] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "groups": [{"name": g, "versions": versions[g], "preferredVersion": versions[g][0]} for g in groups],
        },
    }
    for group, kinds in KINDS.items():
        answers[f"/apis/{group}/v1" if group else "/api/v1"] = {
            "kind": "APIResourceList",
            "groupVersion": f"{group}/v1" if group else "v1",
            "resources": [{"name": _plural(k), "namespaced": True, "kind": k, "verbs": ["get"]} for k in kinds],
        }
    return answers


def _plural(kind: str) -> str:
    name = kind.lower()
    return name[:-1] + "ies" if name.endswith("y") else name + ("es" if name.endswith("ss") else "s")


def _kubeconfig(url: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}],
            "users": [{"name": "test", "user": {}}],
        }
    )
