"""Pods with no more rights than they need, networks closed but where they must be open, secrets in Secrets."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
import yaml

from gateway.settings import GatewaySettings
from tests.charts.golden_parts import golden_path, security_of
from tests.charts.rendering import VALUE_SETS, containers, of_kind, render, rendered
from verifier.settings import VerifierSettings

# Settings whose value lets in whoever knows it.
CONFIDENTIAL = {"verifier_token", "replica_secret", "key", "database", "redis"}


@pytest.mark.parametrize("name", VALUE_SETS)
def test_security_settings_match_the_golden_files(name: str) -> None:
    golden = yaml.safe_load(golden_path(name).read_text())
    assert security_of(rendered(name)) == golden, "look; then run: python -m tests.charts.golden_parts"


@pytest.mark.parametrize("name", VALUE_SETS)
def test_every_container_runs_with_least_privilege(name: str) -> None:
    found = list(containers(rendered(name)))
    assert found
    for each in found:
        pod, own = each.pod["securityContext"], each.container["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert not own.get("privileged")
        assert each.pod["automountServiceAccountToken"] is False
        assert not any(each.pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert set(each.container["resources"]["requests"]) == {"cpu", "memory"}


@pytest.mark.parametrize("name", VALUE_SETS)
def test_no_secret_is_a_plain_variable_or_flag(name: str) -> None:
    documents = rendered(name)
    known = {
        base64.b64decode(value).decode()
        for secret in of_kind(documents, "Secret").values()
        for value in secret["data"].values()
    }
    for found in containers(documents):
        for variable, given in found.env.items():
            setting = variable.removeprefix("EDGEDRAFT_").lower()
            if setting in CONFIDENTIAL or re.search("(PASSWORD|TOKEN|API_KEY|_AUTH)$", variable):
                assert "secretKeyRef" in given["valueFrom"]
    text = yaml.safe_dump([document for document in documents if document["kind"] != "Secret"])
    assert not [value for value in known if value in text]


def test_confidential_settings_are_settings() -> None:
    assert set(GatewaySettings.model_fields) | set(VerifierSettings.model_fields) >= CONFIDENTIAL


def test_passwords_in_urls_reach_only_secrets() -> None:
    documents = rendered("pools")
    assert "hunter2" not in yaml.safe_dump(documents)
    assert "hunter3" not in yaml.safe_dump(documents)
    secret = of_kind(documents, "Secret")["llm"]["data"]
    assert b"hunter2" in base64.b64decode(secret["database-url"])
    assert b"hunter3" in base64.b64decode(secret["redis-url"])


def test_generated_secrets_are_long_random_and_different_each_time() -> None:
    def made() -> dict[str, str]:
        (secret,) = of_kind(render({}), "Secret").values()
        return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}

    first, second = made(), made()
    assert all(first[key] != second[key] for key in first)
    assert len(first["replica-secret"]) >= 16
    assert re.fullmatch("ed-[A-Za-z0-9]{40}", first["key"])
    assert first["postgresql-password"] in first["database-url"]
    assert first["valkey-password"] in first["redis-url"]


def _reached_by(documents: list[dict[str, Any]], component: str, port: str) -> set[str] | None:
    """Components that may reach this port of that one; None where anybody may."""
    (policy,) = [
        policy
        for policy in of_kind(documents, "NetworkPolicy").values()
        if policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == component
    ]
    assert "Ingress" in policy["spec"]["policyTypes"]
    reaching: set[str] = set()
    for rule in policy["spec"]["ingress"]:
        if port in {each["port"] for each in rule["ports"]}:
            if "from" not in rule:
                return None
            for peer in rule["from"]:
                labels = (peer.get("podSelector") or peer["namespaceSelector"])["matchLabels"]
                reaching.add(labels.get("app.kubernetes.io/component", "outside"))
    return reaching


def test_only_gateways_reach_verifiers_each_other_and_the_stores() -> None:
    trial, production = rendered("trial"), rendered("production")
    assert _reached_by(trial, "verifier", "engine") == {"gateway"}
    assert _reached_by(trial, "postgresql", "postgresql") == {"gateway"}
    assert _reached_by(trial, "valkey", "redis") == {"gateway"}
    assert _reached_by(trial, "gateway", "replica") == {"gateway"}
    assert _reached_by(trial, "gateway", "http") is None
    assert _reached_by(production, "verifier", "engine") == {"gateway", "outside"}, "Prometheus"
    assert _reached_by(production, "gateway", "http") == {"outside", "test"}
    assert _reached_by(production, "gateway", "replica") == {"gateway"}
    for document in trial:
        if document["kind"] == "NetworkPolicy":
            labels = document["spec"]["podSelector"]["matchLabels"]
            assert labels["app.kubernetes.io/instance"] == "edgedraft", "not the pods of another release"


def test_policies_select_every_pod_by_existing_labels() -> None:
    documents = rendered("pools")
    for policy in of_kind(documents, "NetworkPolicy").values():
        wanted = policy["spec"]["podSelector"]["matchLabels"]
        component = wanted["app.kubernetes.io/component"]
        of_component = [
            each for each in containers(documents) if each.labels["app.kubernetes.io/component"] == component
        ]
        assert of_component
        assert all(wanted.items() <= each.labels.items() for each in of_component)


def test_policies_can_be_left_to_others() -> None:
    assert not of_kind(render({"networkPolicy": {"enabled": False}}), "NetworkPolicy")
