"""Helm's engine installs and upgrades the chart: the order of things, and what an upgrade keeps."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from helm_python import HelmError

from tests.charts.api_server import Cluster, cluster
from tests.charts.rendering import NAMESPACE, chart, rendered, values_of


def install(there: Cluster, values: dict[str, Any]) -> None:
    there.helm.install(chart(), "edgedraft", values, namespace=NAMESPACE, timeout=10)


def upgrade(there: Cluster, values: dict[str, Any]) -> None:
    there.done.clear()
    there.helm.upgrade(chart(), "edgedraft", values, namespace=NAMESPACE, timeout=10, reset_values=True)


def secret(there: Cluster, name: str) -> dict[str, str]:
    data = there.find("Secret", name)["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def test_the_migration_runs_first_and_is_deleted_afterwards() -> None:
    values = values_of("pools")
    with cluster() as there:
        install(there, values)
        migration = there.done.index("delete Secret/llm-migrate") + 1
        first = [step for step in there.done[:migration] if step.startswith("put")]
        assert first == ["put Secret/llm-migrate", "put Job/llm-migrate"]
        rest = there.done[migration:]
        assert rest.index("put Secret/llm") < rest.index("put Deployment/llm-gateway")
        assert rest.index("put NetworkPolicy/llm-verifier") < rest.index("put StatefulSet/llm-verifier-wide")
        assert set(rest) == {
            f"put {document['kind']}/{document['metadata']['name']}"
            for document in rendered("pools")
            if "helm.sh/hook" not in document["metadata"].get("annotations", {})
        }
        there.jobs_succeed = False
        with pytest.raises(HelmError, match=r"pre-upgrade.*llm-migrate"):
            upgrade(there, values)
        assert not [step for step in there.done if "gateway" in step], "they would find a schema that is not theirs"


def test_an_upgrade_keeps_generated_secrets_and_generates_missing_ones() -> None:
    given = {"auth": {"replicaSecret": {"existingSecret": "mine"}}}
    with cluster() as there:
        install(there, given)
        old = secret(there, "edgedraft")
        assert "replica-secret" not in old
        upgrade(there, {})
        new = secret(there, "edgedraft")
        assert {key: new[key] for key in old} == old
        assert len(new["replica-secret"]) == 40
        assert old["postgresql-password"] in new["database-url"]
        upgrade(there, {"database": {"url": "postgresql://u:q@db.example.com/edgedraft"}})
        moved = secret(there, "edgedraft")
        assert "postgresql-password" not in moved
        assert moved["database-url"] == "postgresql://u:q@db.example.com/edgedraft"
        assert moved["key"] == old["key"]
        assert "delete StatefulSet/edgedraft-postgresql" in there.done
