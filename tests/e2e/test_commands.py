"""`edgedraft up` and the quick comparison, as a user runs them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from openai import OpenAI

from edgedraft.local.processes import ManagedProcess
from loadtest.benchmarks.quick import compare
from tests.e2e.conftest import Service

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def test_up_brings_everything_up_and_down_again(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits it ignored
    up = subprocess.Popen(
        [sys.executable, "-m", "edgedraft.cli", "up", "--port", "0", "--key", "up-key"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "EDGEDRAFT_DATABASE": f"sqlite+aiosqlite:///{tmp_path}/up.db"},
    )
    try:
        assert up.stdout is not None
        url = ""
        for line in up.stdout:
            if line.strip().startswith("base URL"):
                url = line.split()[-1]
            if "Ctrl-C" in line:
                break
        client = OpenAI(base_url=url, api_key="up-key", max_retries=0, timeout=120)
        model = client.models.list().data[0].id
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Say hello."}], max_tokens=8, temperature=0
        )
        assert answer.choices[0].message.content
        assert (answer.model_extra or {})["edgedraft"]["mode"] == "edge"
        children = _children(up.pid)
        assert len(children) == 3
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_up_with_two_gateways_serves_at_both_and_leaves_nothing_behind(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Agents without a model are there at once.
    flags = ("--port", "0", "--key", "up-key", "--gateways", "2", "--agents", "2", "--draft-model", "none")
    up = subprocess.Popen(
        [sys.executable, "-m", "edgedraft.cli", "up", *flags, "--database", f"sqlite:///{tmp_path}/up.db"],
        stdout=subprocess.PIPE,
        text=True,
    )
    children: list[int] = []
    try:
        assert up.stdout is not None
        urls = []
        for line in up.stdout:
            if line.strip().startswith("base URL"):
                urls.append(line.split()[-1])
            if "Ctrl-C" in line:
                break
        assert len(set(urls)) == 2
        children = _children(up.pid)
        assert len(children) == 1 + 1 + 2 + 2, "a Valkey, a verifier, gateways, agents"
        answers = [
            OpenAI(base_url=url, api_key="up-key", max_retries=0, timeout=120).chat.completions.create(
                model="smollm2-135m-instruct",
                messages=[{"role": "user", "content": "Say hello hello hello."}],
                max_tokens=16,
                temperature=0,
            )
            for url in urls
        ]
        assert all((answer.model_extra or {})["edgedraft"]["mode"] != "datacenter" for answer in answers)
        assert len({answer.choices[0].message.content for answer in answers}) == 1
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    with sqlite3.connect(tmp_path / "up.db") as ledger:
        assert ledger.execute("SELECT count(DISTINCT gateway), count(*) FROM usage").fetchone() == (2, 2)


def test_the_quick_comparison_shows_both_sides_of_one_run(service: Service, agent: ManagedProcess) -> None:
    result = compare(service.stack, service.verifier.address, "float32", prompts=1, max_tokens=32)
    assert [row["mode"] for row in result.rows] == ["datacenter", "edge"]
    assert [row["same_text"] for row in result.rows] == ["2/2", "2/2"]
    datacenter, edge = result.rows
    assert datacenter["acceptance"] is None
    assert edge["acceptance"] > 0
    assert datacenter["output_tokens"] == edge["output_tokens"]
    assert result.ratios["edge_over_datacenter_verifier_forwards_per_token"] < 1


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
