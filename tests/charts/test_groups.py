"""Pools on vLLM: one pod with several GPUs, and groups of pods that hold one model together."""

from __future__ import annotations

import http.server
import os
import shlex
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import kubernetes_validate
import pytest

from edgedraft import cli
from tests.charts.api_server import cluster
from tests.charts.rendering import (
    CHART,
    NAMESPACE,
    WORKER_INDEX,
    Container,
    Document,
    chart,
    containers,
    of_kind,
    render,
    rendered,
    templates,
    values_of,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*kubernetes_validate.*")


def pod(name: str, documents: list[Document] | None = None) -> Container:
    found = {each.workload: each for each in containers(documents or rendered("vllm"))}
    (whole,) = [workload for workload in found if workload.endswith(name)]
    return found[whole]


LEADER, WORKER = "vllm-far/leader", "vllm-far/worker"


def test_pods_of_groups_are_pods_that_kubernetes_knows() -> None:
    (groups,) = of_kind(rendered("vllm"), "LeaderWorkerSet").values()
    for name, template in templates(groups).items():
        labels = template["metadata"]["labels"]
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name.rpartition("/")[2]},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        }
        kubernetes_validate.validate(deployment, "1.37", strict=True)
    for claim in groups["spec"]["leaderWorkerTemplate"]["volumeClaimTemplates"]:
        whole = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **claim}
        kubernetes_validate.validate(whole, "1.37", strict=True)


def test_the_set_has_the_fields_of_its_kind_and_no_other() -> None:
    """As LeaderWorkerSet 0.8, v1 of its API, has them."""
    (groups,) = of_kind(rendered("vllm"), "LeaderWorkerSet").values()
    assert groups["apiVersion"] == "leaderworkerset.x-k8s.io/v1"
    assert groups["metadata"]["annotations"] == {
        "leaderworkerset.sigs.k8s.io/exclusive-topology": "topology.kubernetes.io/rack"
    }
    spec = groups["spec"]
    assert set(spec) == {"replicas", "startupPolicy", "networkConfig", "leaderWorkerTemplate"}
    assert (spec["replicas"], spec["startupPolicy"]) == (2, "LeaderCreated")
    assert spec["networkConfig"] == {"subdomainPolicy": "Shared"}
    template = spec["leaderWorkerTemplate"]
    assert set(template) == {
        *("size", "restartPolicy", "leaderTemplate", "workerTemplate"),
        *("volumeClaimTemplates", "persistentVolumeClaimRetentionPolicy"),
    }
    assert (template["size"], template["restartPolicy"]) == (2, "RecreateGroupOnPodRestart")
    assert template["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"


def test_one_pod_with_several_gpus_needs_no_group() -> None:
    wide = pod("verifier-wide")
    assert "command" not in wide.container, "no torchrun: vLLM starts its processes itself"
    assert wide.env["EDGEDRAFT_ENGINE"]["value"] == "vllm"
    assert wide.engine_args[:2] == ["--tensor-parallel-size", "8"]
    assert "--nnodes" not in wide.engine_args
    assert wide.container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert wide.container["image"].endswith("-vllm-cuda")
    still = pod("verifier-still")
    assert still.engine_args == []
    assert still.container["image"].endswith("-vllm-cpu")


def test_engine_args_reach_vllm_as_they_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[Any] = []
    monkeypatch.setattr(cli, "import_module", lambda _: SimpleNamespace(main=recorded.append))
    wide = pod("verifier-wide")
    cli.main(wide.container["args"])
    given = values_of("vllm")["verifiers"]["wide"]["engineArgs"]
    assert shlex.split(recorded[0].engine_args) == ["--tensor-parallel-size", "8", *given]


def test_pods_of_a_group_run_one_command_with_their_rank() -> None:
    leader, worker = pod(LEADER), pod(WORKER)
    assert leader.container["args"] == worker.container["args"]
    args = leader.engine_args
    own = values_of("vllm")["verifiers"]["far"]["engineArgs"]
    assert args[:4] == ["--tensor-parallel-size", "8", "--pipeline-parallel-size", "2"]
    assert args[4 : 4 + len(own)] == own, "behind ours, so that they win"
    pairs = dict(zip(args[-8::2], args[-7::2], strict=True))
    assert pairs == {
        "--nnodes": "2",
        "--node-rank": "$(LWS_WORKER_INDEX)",
        "--master-addr": "$(LWS_LEADER_ADDRESS)",
        "--master-port": "29501",
    }
    for member in (leader, worker):
        assert member.env["VLLM_HOST_IP"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
        assert member.pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
        assert member.container["resources"]["limits"]["nvidia.com/gpu"] == "8"
        assert member.env["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "hugging-face"
        spread = [each["topologyKey"] for each in member.pod["topologySpreadConstraints"]]
        assert spread == ["kubernetes.io/hostname"], "not over zones"


def test_only_leaders_serve() -> None:
    documents = rendered("vllm")
    service = of_kind(documents, "Service")["edgedraft-verifier-far"]["spec"]["selector"]
    leader, worker = pod(LEADER), pod(WORKER)
    assert service.items() <= leader.labels.items()
    assert not service.items() <= worker.labels.items()
    assert WORKER_INDEX not in of_kind(documents, "Service")["edgedraft-verifier-wide"]["spec"]["selector"]
    assert {"startupProbe", "livenessProbe", "readinessProbe", "ports"} <= set(leader.container)
    assert not {"startupProbe", "livenessProbe", "readinessProbe", "ports"} & set(worker.container)
    assert "EDGEDRAFT_VERIFIER_TOKEN" in leader.env
    assert "EDGEDRAFT_VERIFIER_TOKEN" not in worker.env


def test_the_chart_does_not_create_the_controllers_service() -> None:
    """It makes one of the set's name, and takes one that is there; ours would hide members until they are ready."""
    documents = rendered("vllm")
    assert not set(of_kind(documents, "LeaderWorkerSet")) & set(of_kind(documents, "Service"))


def test_names_of_groups_leave_space_for_their_numbers() -> None:
    given = {"verifiers": {"a" * 18: {"model": "x/y", "engine": "vllm", "nodes": 2, "replicas": 1000}}}
    (name,) = of_kind(render(given, name="r" * 53), "LeaderWorkerSet")
    # A revision's name, which is a label, has eleven characters more than that of its set.
    assert len(f"{name}-999") <= 52


@pytest.mark.parametrize("name", ["verifier-wide", "verifier-still", LEADER, WORKER])
def test_vllm_can_write_where_it_must(name: str) -> None:
    found = pod(name)
    volumes = {volume["name"]: volume for volume in found.pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in found.container["volumeMounts"]}
    shm = volumes[mounts["/dev/shm"]["name"]]["emptyDir"]
    assert shm == {"medium": "Memory", "sizeLimit": "16Gi" if name == "verifier-wide" else "4Gi"}
    for variable in ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        folder = found.env[variable]["value"]
        (mount,) = [mount for path, mount in mounts.items() if f"{folder}/".startswith(f"{path}/")]
        assert not mount.get("readOnly")
        assert "emptyDir" in volumes[mount["name"]]
    assert found.env["HF_HOME"]["value"].startswith("/var/cache/edgedraft/")


def test_pods_of_a_group_are_reachable_from_their_group_only() -> None:
    documents = rendered("vllm")
    leader, worker = pod(LEADER), pod(WORKER)
    others = [each for each in containers(documents) if each.workload not in {leader.workload, worker.workload}]
    whole = [
        policy["spec"]
        for policy in of_kind(documents, "NetworkPolicy").values()
        for rule in policy["spec"]["ingress"]
        if rule["ports"] == [{"protocol": "TCP"}]
    ]
    (policy,) = whole
    selected = policy["podSelector"]["matchLabels"].items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    for rule, side in ((policy["ingress"], "from"), (policy["egress"], "to")):
        ((peer,),) = [each[side] for each in rule]
        peers = peer["podSelector"]["matchLabels"].items()
        for member in (leader, worker):
            assert selected <= member.labels.items()
            assert peers <= member.labels.items()
        assert not any(peers <= each.labels.items() or selected <= each.labels.items() for each in others)


def test_a_group_is_disrupted_as_one() -> None:
    selector = of_kind(rendered("vllm"), "PodDisruptionBudget")["edgedraft-verifier-far"]["spec"]["selector"]
    for member in (pod(LEADER), pod(WORKER)):
        assert selector["matchLabels"].items() <= member.labels.items()


def test_a_worker_runs_until_its_leader_has_drained() -> None:
    worker, leader = pod(WORKER), pod(LEADER)
    assert worker.pod["terminationGracePeriodSeconds"] == leader.pod["terminationGracePeriodSeconds"]
    command, flag, script = worker.container["lifecycle"]["preStop"]["exec"]["command"]
    assert (command, flag, script) == ("python", "-c", (CHART / "files/leader_gone.py").read_text())

    asked: list[str] = []

    class Draining(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(503)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    # An address of loopback of its own, since the port is the chart's.
    address = f"127.91.{os.getpid() // 200 % 200}.{os.getpid() % 200 + 1}"
    with http.server.ThreadingHTTPServer((address, 9000), Draining) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        environment = {**os.environ, "LWS_LEADER_ADDRESS": address}
        with subprocess.Popen([sys.executable, flag, script], env=environment) as waiting:
            wait_until(lambda: len(asked) > 1)
            assert waiting.poll() is None, "any answer is one"
            server.shutdown()
            server.server_close()
            assert waiting.wait(20) == 0


def test_a_group_is_installed_behind_its_policies() -> None:
    with cluster() as there:
        there.helm.install(chart(), "edgedraft", values_of("vllm"), namespace=NAMESPACE, timeout=10)
        groups = there.done.index("put LeaderWorkerSet/edgedraft-vllm-far")
        assert there.done.index("put NetworkPolicy/edgedraft-vllm-far") < groups
