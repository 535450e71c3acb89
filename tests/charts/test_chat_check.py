"""What `helm test` runs, against a gateway on a real socket: which responses pass, and which fail."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.charts.rendering import CHART, container, of_kind, rendered
from tests.gateway.conftest import KEY, running_gateway
from tests.support.scripted_verifier import ScriptedVerifier

SCRIPT = CHART / "files/chat_check.py"


async def check(url: str, key: str = KEY, model: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(SCRIPT),
        env={"BASE_URL": url, "API_KEY": key, "MODEL": model, "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_it_passes_with_a_chat_and_reports_why_it_fails(tmp_path: Path) -> None:
    async with ScriptedVerifier() as verifier, running_gateway(tmp_path, verifier) as gateway:
        (code, out, _), (refused, _, why), (missing, _, unknown) = await asyncio.gather(
            check(gateway.url), check(gateway.url, key="ed-wrong"), check(gateway.url, model="nobodys-model")
        )
        assert code == 0
        assert "16 tokens" in out
        assert refused == 1
        assert "401" in why
        assert missing == 1
        assert "nobodys-model" in unknown
    gone, _, why = await check(gateway.url)
    assert gone == 1
    assert gateway.url in why


def test_the_pod_runs_this_file_against_the_service() -> None:
    for name, service, port in (("trial", "edgedraft", 80), ("everything", "edgedraft", 8080)):
        documents = rendered(name)
        found = container(documents, "chat")
        assert found.container["command"] == ["python", "/checks/chat_check.py"]
        assert found.env["BASE_URL"]["value"] == f"http://{service}:{port}"
        assert of_kind(documents, "Service")[service]["spec"]["ports"][0]["port"] == port
        config = of_kind(documents, "ConfigMap")[found.pod["volumes"][0]["configMap"]["name"]]
        assert config["data"]["chat_check.py"] == SCRIPT.read_text().removesuffix("\n")
        for kind in ("Pod", "ConfigMap"):
            (hooked,) = [each for each in of_kind(documents, kind).values() if "test" in each["metadata"]["name"]]
            assert hooked["metadata"]["annotations"]["helm.sh/hook"] == "test"
