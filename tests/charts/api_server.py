"""As much of a Kubernetes API server as Helm's engine asks in a dry run: discovery, and objects to look up.

It keeps nothing and changes nothing, and knows no schema: Helm then leaves validation to others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import yaml
from helm_python import Config

from tests.charts.rendering import NAMESPACE

# Group to the kinds of its v1; "" is the core's.
KINDS = {
    "": ("Secret", "ConfigMap", "Service", "ServiceAccount", "Pod"),
    "apps": ("Deployment", "StatefulSet"),
    "batch": ("Job",),
    "networking.k8s.io": ("NetworkPolicy", "Ingress"),
    "policy": ("PodDisruptionBudget",),
}


@contextmanager
def cluster(objects: Mapping[str, Any]) -> Iterator[Config]:
    """Helm's connection to a cluster that has these objects, by the path that each is read at."""
    answers = _discovery() | dict(objects)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found = answers.get(path)
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            # The older schema is asked for as a protobuf message, of which nothing is the empty one.
            body = b"" if path == "/openapi/v2" else json.dumps(missing if found is None else found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        with Config(
            kubeconfig_content=_kubeconfig(f"http://127.0.0.1:{server.server_port}"),
            namespace=NAMESPACE,
            storage_driver="memory",
        ) as config:
            yield config
    finally:
        server.shutdown()
        server.server_close()


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
        "/openapi/v2": {},
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
