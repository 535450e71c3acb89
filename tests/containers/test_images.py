"""The built images under the chart's settings: a chat as `helm test` makes it, a device that drafts, probes, drain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedraft import __version__
from tests.charts.rendering import CHART, container
from tests.containers.conftest import KEY, LOAD_SECONDS, Deployment, Service, probe
from tests.containers.engine import Engine, EngineError, Running
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

AGENT = f"edgedraft-agent:{__version__}-cpu"

CHAT = """
import json, sys, urllib.request
body = {"model": sys.argv[2], "messages": [{"role": "user", "content": "Count from one to ten."}],
        "max_tokens": 32, "temperature": 0}
request = urllib.request.Request("http://127.0.0.1:8000/v1/chat/completions", json.dumps(body).encode(),
                                 {"authorization": "Bearer " + sys.argv[1], "content-type": "application/json"})
print(urllib.request.urlopen(request, timeout=120).read().decode())
"""


def chat(gateway: Running) -> tuple[str, str]:
    """Text and mode of an answer."""
    answer = json.loads(gateway.execute("python", "-c", CHAT, KEY, "smollm2-135m-instruct"))
    return answer["choices"][0]["message"]["content"], answer["edgedraft"]["mode"]


def test_the_database_is_migrated_by_the_image(service: Service) -> None:
    assert service.migration.state()["ExitCode"] == 0, service.migration.log()


def test_the_probes_of_the_chart_are_answered(service: Service) -> None:
    for running, name in ((service.gateway, "gateway"), (service.verifier, "verifier")):
        found = container(service.deployment.documents, name).container
        ports = {port["name"]: port["containerPort"] for port in found["ports"]}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            check = found[kind]["httpGet"]
            assert probe(running, ports[check["port"]], check["path"]) == 200, (name, kind)
    assert probe(service.gateway, 8000, "/health") == 200


def test_the_chat_of_helm_test_passes(service: Service, tmp_path: Path) -> None:
    (tmp_path / "chat_check.py").write_text((CHART / "files/chat_check.py").read_text())
    tmp_path.chmod(0o755)
    deployment = service.deployment
    found = container(deployment.documents, "chat")
    # The Service's port is 80; without a Service, the gateway's own.
    url = {"API_KEY": KEY, "BASE_URL": "http://edgedraft:8000"}
    check = deployment.start(found, url, {"checks": tmp_path})
    wait_until(lambda: not check.state()["Running"], LOAD_SECONDS)
    assert check.state()["ExitCode"] == 0, check.log()
    assert "16 tokens" in check.log()


def test_a_device_in_a_container_drafts_the_same_text(service: Service) -> None:
    alone, mode = chat(service.gateway)
    assert mode == "datacenter"
    # As a person runs it: the image's own command, and a root file system that need not be writable.
    flags = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp:mode=1777"]
    flags += ["--env", f"EDGEDRAFT_KEY={KEY}", "--env", "EDGEDRAFT_THREADS=1"]
    deployment = service.deployment
    # The shipped draft shares the demo model's embeddings, which nothing here could download.
    flags += ["--volume", f"{deployment.folder / 'models' / 'models'}:/var/cache/edgedraft/models:ro"]
    words = ["attach", "http://127.0.0.1:8000"]
    agent = deployment.engine.start(deployment.network, "agent", AGENT, flags, words)
    answers: list[tuple[str, str]] = []

    def drafted() -> bool:
        assert agent.state()["Running"], agent.log()
        answers.append(chat(service.gateway))
        return answers[-1][1] == "edge"

    wait_until(drafted, LOAD_SECONDS)
    assert {text for text, _ in answers} == {alone}
    assert agent.stop(20) == 0, agent.log()


@pytest.mark.parametrize("name", ["gateway", "verifier"])
def test_nothing_of_the_image_can_be_changed_by_its_user(service: Service, name: str) -> None:
    running = {"gateway": service.gateway, "verifier": service.verifier}[name]
    assert running.execute("id", "-u").strip() == "10001"
    assert running.execute("find", "/opt/edgedraft", "-writable", "-not", "-type", "l") == ""
    assert "CapEff:\t0000000000000000" in running.execute("cat", "/proc/self/status")
    with pytest.raises(EngineError, match="Read-only file system"):
        running.execute("touch", "/opt/edgedraft/new")


def test_the_gateways_image_has_no_torch_and_no_installer(service: Service) -> None:
    script = "import importlib.util as u; print([n for n in ('torch', 'transformers', 'pip') if u.find_spec(n)])"
    assert service.gateway.execute("python", "-c", script).strip() == "[]"
    assert "ort.wasm.min.mjs" in service.gateway.execute("ls", "/opt/browser-drafts/onnxruntime-web")


def test_the_image_alone_has_the_charts_user_and_a_command(engine: Engine, deployment: Deployment) -> None:
    for name in ("gateway", "verifier"):
        found = container(deployment.documents, name)
        image = engine.configuration(found.container["image"])
        assert image["User"] == "{runAsUser}:{runAsGroup}".format(**found.pod["securityContext"])
        assert image["Entrypoint"][-1] == "edgedraft"
    assert engine.configuration(AGENT)["User"] == "10001:10001"


def test_both_drain_when_they_are_told_to_stop(service: Service) -> None:
    """Last, since it ends them."""
    for running in (service.gateway, service.verifier):
        assert running.stop(60) == 0, running.log()
