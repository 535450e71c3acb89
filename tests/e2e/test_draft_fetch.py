"""A desktop without PyTorch fetches the draft of the gateway's model, finds it, and drafts with it: no text changes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from openai import OpenAI

from edge_agent.drafters.pytorch.draft_model import shipped_draft
from edge_agent.onnx.export import export_draft
from edge_agent.onnx.kept import find_kept
from edgedraft.local.demo_model import DEMO_MODEL
from tests.e2e.conftest import CASES, KEY, Answer, Case, Service
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SOME = CASES[::4]
TRIES = 10
# `edgedraft` where neither torch nor transformers can be imported, nor the demo model's cache be read.
WITHOUT_TORCH = "import sys; sys.modules.update(torch=None, transformers=None); from edgedraft.cli import main; main()"


@dataclass(frozen=True)
class Offering:
    """A gateway that offers the shipped draft, and a desktop's own environment."""

    service: Service
    address: str
    database: Path
    environment: dict[str, str]
    drafts: Path

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", WITHOUT_TORCH, *words], stdout=subprocess.PIPE, text=True, env=self.environment
        )


@pytest.fixture(scope="module")
def offering(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Offering]:
    offered, folder = tmp_path_factory.mktemp("offered"), tmp_path_factory.mktemp("desktop")
    export_draft(str(shipped_draft(DEMO_MODEL)), offered / "shipped")
    database = f"sqlite+aiosqlite:///{folder}/gateway.db"
    flags = ("--port", "0", "--database", database, "--browser-drafts", str(offered))
    gateway = service.stack.launch("gateway", "--verifier", service.verifier.address, *flags)
    service.stack.wait_ready(gateway)
    client = OpenAI(base_url=f"{gateway.address}/v1", api_key=KEY, max_retries=0, timeout=300)
    wait_until(lambda: client.models.list().data)
    drafts = folder / "drafts"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "EDGEDRAFT_KEY": KEY,
        "EDGEDRAFT_DRAFTS_FOLDER": str(drafts),
        "EDGEDRAFT_CACHE": str(folder / "empty"),
    }
    yield Offering(replace(service, client=client), gateway.address, folder / "gateway.db", environment, drafts)
    gateway.stop()
    service.stack.processes.remove(gateway)


def test_it_fetches_finds_and_drafts(offering: Offering, alone: dict[Case, Answer]) -> None:
    fetch = offering.start("draft", "fetch", offering.address)
    told, _ = fetch.communicate(timeout=600)
    assert fetch.returncode == 0
    assert "in int8" in told
    assert len(find_kept(offering.drafts)) == 1
    agent = offering.start("attach", offering.address, "--no-live", "--no-polite", "--no-prompt-lookup")
    assert agent.stdout is not None
    try:
        assert agent.stdout.readline().startswith("edgedraft agent attached")
        answers = dict(zip(SOME, offering.service.ask_all(SOME, streams=2), strict=True))
        accepted = sum(answer.accepted for answer in answers.values())
        for case in SOME * TRIES:  # on a busy machine drafts may come too late for every step of a short text
            if accepted:
                break
            accepted = offering.service.ask(case).accepted
        assert accepted
    finally:
        agent.terminate()
        agent.wait(60)
        agent.stdout.close()
    assert [answers[case].text for case in SOME] == [alone[case].text for case in SOME]
    with sqlite3.connect(offering.database) as ledger:
        wait_until(lambda: ("onnx cpu",) in ledger.execute("SELECT DISTINCT agent_device FROM usage").fetchall())


def test_without_a_draft_the_command_is_named(offering: Offering, tmp_path: Path) -> None:
    environment = {**offering.environment, "EDGEDRAFT_DRAFTS_FOLDER": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "attach", offering.address],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "nothing to draft with yet: `edgedraft draft fetch` gets the draft" in done.stderr
