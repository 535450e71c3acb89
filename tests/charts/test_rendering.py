"""Every value set gives documents that Kubernetes takes and that agree with each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import helm_python
import kubernetes_validate
import pytest
from kubernetes_validate import SchemaNotFoundError, utils
from pydantic_settings import CliApp

from edgedraft import cli
from edgedraft.local.demo_model import CACHE_VARIABLE
from gateway.settings import GatewaySettings
from tests.charts.rendering import (
    CHART,
    NAMESPACE,
    VALUE_SETS,
    Document,
    chart,
    container,
    containers,
    of_kind,
    render,
    rendered,
    values_of,
)
from verifier.settings import VerifierSettings

# Kinds that Kubernetes itself has no schema of.
CUSTOM = {"HTTPRoute", "ServiceMonitor", "LeaderWorkerSet"}

pytestmark = pytest.mark.filterwarnings("ignore:.*kubernetes_validate.*")


@pytest.mark.parametrize("name", VALUE_SETS)
def test_helm_lint_passes(name: str) -> None:
    report = helm_python.lint(CHART, values_of(name), strict=True, kube_version="v1.34.0", namespace=NAMESPACE)
    assert [message for message in report["messages"] if message["severity"] > 1] == []
    assert report["errors"] == []


@pytest.fixture(autouse=True, scope="module")
def _schemas_are_read_once() -> Iterator[None]:
    """The library reads 2 MB anew for each document."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield


@pytest.mark.parametrize("name", VALUE_SETS)
def test_every_field_is_in_the_kubernetes_schemas(name: str) -> None:
    unknown = set()
    for document in rendered(name):
        try:
            kubernetes_validate.validate(document, "1.37", strict=True)
        except SchemaNotFoundError:
            unknown.add(document["kind"])
    assert unknown <= CUSTOM


@pytest.mark.parametrize("name", VALUE_SETS)
def test_references_are_to_existing_objects_or_the_users(name: str) -> None:
    documents, values = rendered(name), values_of(name)
    users_own = set(re.findall(r"'existing(?:Secret|Claim)': '([^']+)'", str(values)))
    secrets = {secret: set(document["data"]) for secret, document in of_kind(documents, "Secret").items()}
    configs, accounts = of_kind(documents, "ConfigMap"), of_kind(documents, "ServiceAccount")
    for found in containers(documents):
        for variable in found.env.values():
            if ref := variable.get("valueFrom", {}).get("secretKeyRef"):
                assert ref["name"] in users_own or ref["key"] in secrets[ref["name"]]
        mounted = {mount["name"] for mount in found.container["volumeMounts"]}
        claims = _claims(documents, found.workload)
        assert mounted == {volume["name"] for volume in found.pod.get("volumes", [])} | claims
        for volume in found.pod.get("volumes", []):
            if config := volume.get("configMap"):
                assert config["name"] in configs
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in users_own
        assert found.pod["serviceAccountName"] in {*accounts, "default"}


@pytest.mark.parametrize("name", VALUE_SETS)
def test_names_are_short_and_given_once(name: str) -> None:
    names = [(document["kind"], document["metadata"]["name"]) for document in rendered(name)]
    assert len(names) == len(set(names))
    assert max(len(each) for _, each in names) <= 63


@pytest.mark.parametrize("name", VALUE_SETS)
def test_ports_agree_from_the_service_down_to_the_process(name: str) -> None:
    documents = rendered(name)
    for service in of_kind(documents, "Service").values():
        backends = [found for found in containers(documents) if _selects(service["spec"]["selector"], found.labels)]
        assert len(backends) == 1, service["metadata"]["name"]
        named = _ports(backends[0].container)
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in named
    for found in containers(documents):
        named = _ports(found.container)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            for how in ("httpGet", "tcpSocket"):
                if check := found.container.get(probe, {}).get(how):
                    assert check["port"] in named
        if "EDGEDRAFT_PORT" in found.env:
            assert int(found.env["EDGEDRAFT_PORT"]["value"]) == named.get("http", named.get("engine"))
        if "EDGEDRAFT_REPLICA_PORT" in found.env:
            assert int(found.env["EDGEDRAFT_REPLICA_PORT"]["value"]) == named["replica"]
            assert found.env["EDGEDRAFT_ADVERTISE"]["value"] == f"ws://$(POD_IP):{named['replica']}"
            assert list(found.env).index("POD_IP") < list(found.env).index("EDGEDRAFT_ADVERTISE")


@pytest.mark.parametrize("name", VALUE_SETS)
def test_gateways_dial_every_pool_and_every_verifier_outside(name: str) -> None:
    documents, values = rendered(name), values_of(name)
    services = {each: service for each, service in of_kind(documents, "Service").items() if "-verifier-" in each}
    for service in services.values():
        assert service["spec"]["clusterIP"] == "None"
    for each, pool in of_kind(documents, "StatefulSet").items():
        assert each not in services or pool["spec"]["serviceName"] == each
    dialled = container(documents, "gateway").env["EDGEDRAFT_VERIFIER"]["value"].split(",")
    inside = [f"dns+ws://{each}.{NAMESPACE}.svc.cluster.local:9000" for each in services]
    assert sorted(dialled) == sorted([*inside, *values.get("externalVerifiers", [])])
    wanted = {each for each, pool in values.get("verifiers", {"demo": {}}).items() if pool is not None}
    assert {each.rpartition("-verifier-")[2] for each in services} == wanted


@pytest.mark.parametrize("name", VALUE_SETS)
def test_every_variable_is_a_setting_with_a_valid_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for found in containers(rendered(name)):
        if not found.words:
            continue
        kind = cli.COMMANDS[found.words][0]
        seen.add(kind)
        with monkeypatch.context() as patch:
            for variable, given in found.env.items():
                if variable.startswith("EDGEDRAFT_") and variable != CACHE_VARIABLE:
                    assert variable.removeprefix("EDGEDRAFT_").lower() in kind.model_fields
                    patch.setenv(variable, given.get("value", "from-a-secret"))
            CliApp.run(kind, cli_args=[])
        # Without this a Service of the name edgedraft would set EDGEDRAFT_PORT.
        assert found.pod["enableServiceLinks"] is False
    assert {GatewaySettings, VerifierSettings} <= seen


def test_values_reach_the_variables_unchanged() -> None:
    def plain(found: Any) -> dict[str, str]:
        return {name: variable.get("value") for name, variable in found.env.items()}

    gateway = plain(container(rendered("production"), "gateway"))
    assert gateway["EDGEDRAFT_MAX_SESSIONS_PER_KEY"] == "2000000"
    assert gateway["EDGEDRAFT_MONTHLY_SPEND"] == "250.5"
    assert gateway["EDGEDRAFT_ADMIN_API"] == "true"
    assert gateway["EDGEDRAFT_DB_UPGRADE"] == "false"
    assert gateway["EDGEDRAFT_DRAIN_GRACE"] == "300"
    listed = plain(container(rendered("pools"), "gateway"))
    assert listed["EDGEDRAFT_ALLOWED_ORIGINS"] == "https://a.example.com,https://b.example.com"
    assert listed["EDGEDRAFT_HEDGE_AFTER"] == "1.5"
    assert [name for name in listed if name == "EDGEDRAFT_LOG_FORMAT"] == ["EDGEDRAFT_LOG_FORMAT"]
    (small,) = [found for found in containers(rendered("pools")) if found.workload.endswith("verifier-small")]
    assert (plain(small)["EDGEDRAFT_CPUS"], plain(small)["EDGEDRAFT_PROMPT_LOOKUP"]) == ("0,1,2,3", "false")


@pytest.mark.parametrize("name", VALUE_SETS)
def test_pods_get_the_time_that_their_drain_takes(name: str) -> None:
    for found in containers(rendered(name)):
        if found.container["name"] in {"gateway", "verifier"}:
            drain = float(found.env["EDGEDRAFT_DRAIN_GRACE"]["value"])
            before = found.container["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert before + drain + 5 < found.pod["terminationGracePeriodSeconds"]


def test_pools_of_gpus() -> None:
    pools = {found.workload.rpartition("-")[2]: found for found in containers(rendered("pools"))}
    wide, amd, small = (pools[name] for name in ("wide", "amd", "small"))
    assert wide.container["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert wide.container["command"][:3] == ["torchrun", "--standalone", "--nproc-per-node=4"]
    assert int(wide.env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]["value"]) > int(wide.env["EDGEDRAFT_DRAIN_GRACE"]["value"])
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in wide.container["env"]
    assert wide.container["image"].endswith("-cuda")
    assert amd.container["image"] == "edgedraft-verifier-rocm:7"
    assert amd.container["resources"]["limits"] == {"amd.com/gpu": "1"}
    assert [toleration["key"] for toleration in amd.pod["tolerations"]] == ["dedicated", "amd.com/gpu"]
    assert "command" not in amd.container
    assert small.container["image"].endswith("-cpu")
    assert "limits" not in small.container["resources"]


def test_the_startup_probe_waits_for_the_model() -> None:
    probe = container(render({"verifierDefaults": {"startupSeconds": 3601}}), "verifier").container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 3601


def test_a_scaled_deployment_leaves_its_replicas_to_the_autoscaler() -> None:
    documents = rendered("production")
    (scaler,) = of_kind(documents, "HorizontalPodAutoscaler").values()
    target = of_kind(documents, "Deployment")[scaler["spec"]["scaleTargetRef"]["name"]]
    assert "replicas" not in target["spec"]
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "edgedraft_gateway_sessions"
    (plain,) = [each for each in of_kind(rendered("pools"), "Deployment").values() if each["spec"]["replicas"] == 4]
    assert plain["metadata"]["name"] == "llm-gateway"


def test_the_schema_is_upgraded_before_the_gateways_where_the_database_is_elsewhere() -> None:
    assert of_kind(rendered("trial"), "Job") == {}
    for name, secret in (("production", "edgedraft-postgresql"), ("pools", "llm-migrate")):
        (job,) = of_kind(rendered(name), "Job").values()
        assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        found = container(rendered(name), "migrate")
        assert found.words == ("db", "upgrade")
        assert found.env["EDGEDRAFT_DATABASE"]["valueFrom"]["secretKeyRef"]["name"] == secret
    hooked = of_kind(rendered("pools"), "Secret")["llm-migrate"]["metadata"]["annotations"]
    assert int(hooked["helm.sh/hook-weight"]) < 0


@pytest.mark.parametrize("controller", ["nginx", "f5-nginx", "traefik", "haproxy", "alb", "none"])
def test_ingress_of_every_controller(controller: str) -> None:
    given = {"ingress": {"enabled": True, "controller": controller, "host": "a.example.com", "annotations": {"x": "y"}}}
    (ingress,) = of_kind(render(given), "Ingress").values()
    kubernetes_validate.validate(ingress, "1.37", strict=True)
    annotations = ingress["metadata"]["annotations"]
    assert annotations.pop("x") == "y"
    assert all(isinstance(value, str) for value in annotations.values())
    if controller in {"nginx", "f5-nginx", "haproxy", "alb"}:
        assert any("3600" in value for value in annotations.values())
    assert bool(annotations) == (controller != "none")


def test_routes_publish_what_clients_and_agents_need_and_nothing_that_is_the_operators() -> None:
    documents = rendered("everything")
    (ingress,) = of_kind(documents, "Ingress").values()
    (route,) = of_kind(documents, "HTTPRoute").values()
    (rule,), (ruled,) = ingress["spec"]["rules"], route["spec"]["rules"]
    prefixes = {path["path"] for path in rule["http"]["paths"]}
    assert prefixes == {match["path"]["value"] for match in ruled["matches"]}
    assert not {"/", "/metrics", "/admin", "/admin/v1", "/readyz"} & prefixes
    assert {"/v1", "/dashboard"} <= prefixes
    assert ruled["timeouts"]["request"] == "0s"
    service = of_kind(documents, "Service")[ruled["backendRefs"][0]["name"]]
    assert service["spec"]["ports"][0]["port"] == ruled["backendRefs"][0]["port"]


def test_monitors_find_their_services() -> None:
    documents = rendered("production")
    for monitor in of_kind(documents, "ServiceMonitor").values():
        selector = monitor["spec"]["selector"]["matchLabels"]
        services = [
            service
            for service in of_kind(documents, "Service").values()
            if _selects(selector, service["metadata"]["labels"])
        ]
        assert services
        (endpoint,) = monitor["spec"]["endpoints"]
        assert all(endpoint["port"] in {port["name"] for port in each["spec"]["ports"]} for each in services)


@pytest.mark.parametrize("name", VALUE_SETS)
def test_the_notes_show_the_address_and_no_secret(name: str) -> None:
    files = chart().render(values_of(name), name="edgedraft", namespace=NAMESPACE)
    (notes,) = [text for path, text in files.items() if path.endswith("NOTES.txt")]
    documents = rendered(name)
    (ingress,) = of_kind(documents, "Ingress").values() or [None]
    assert (f"https://{ingress['spec']['rules'][0]['host']}/v1" if ingress else "port-forward") in notes
    (gateway,) = [each for each in of_kind(documents, "Deployment") if each.endswith("gateway")]
    assert f"deployment/{gateway}" in notes
    assert not re.search("hunter|ed-[A-Za-z0-9]{20}", notes)


def test_a_long_release_name_still_gives_names_that_kubernetes_takes() -> None:
    documents = render({"verifiers": {"a" * 18: {"model": "x/y"}}}, name="r" * 53)
    assert max(len(document["metadata"]["name"]) for document in documents) <= 63
    # The name of a revision, which is a label, has eleven characters more.
    assert max(len(name) for name in of_kind(documents, "StatefulSet")) <= 52


def _claims(documents: list[Document], workload: str) -> set[str]:
    kind, name = workload.split("/")[:2]
    spec = of_kind(documents, kind)[name]["spec"]
    spec = spec.get("leaderWorkerTemplate", spec)
    return {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}


def _ports(container: Document) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


def _selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()
