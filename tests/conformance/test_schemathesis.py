"""Schemathesis over the gateway's own OpenAPI document: no generated request gets a 5xx response.

Behind the gateway stands the stub verifier, which answers at once. EDGEDRAFT_SCHEMATHESIS_EXAMPLES says how many
examples an operation gets; `EDGEDRAFT_SCHEMATHESIS_EXAMPLES=400 pytest tests/conformance/test_schemathesis.py -s` makes
more than 5,000 requests.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from edgedraft.local.processes import Supervisor
from loadtest.peers.gateways.process import start_stub

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

KEY = "schemathesis-key"
HOOKS = Path(__file__).parent / "schemathesis_hooks.py"
EXAMPLES = int(os.environ.get("EDGEDRAFT_SCHEMATHESIS_EXAMPLES", "6"))


def test_no_request_is_answered_by_a_5xx(tmp_path: Path) -> None:
    verifier = start_stub("stub_verifier", "stub", "0", folder=tmp_path)
    try:
        with Supervisor(KEY, tmp_path) as stack:
            database = f"sqlite+aiosqlite:///{tmp_path / 'gateway.db'}"
            stack.start_gateway(verifier.read_url(), flags=("--port", "0", "--database", database))
            stack.wait_for_verifier()
            reported = schemathesis(stack.url, tmp_path)
            answered = generations(stack.url)
    finally:
        verifier.stop()
    print(reported, f"{answered} generations", sep="\n")
    found = re.search(r"(\d+) generated, (\d+) passed", reported)
    assert found, reported
    assert found[1] == found[2], reported
    assert int(found[1]) >= 300, "the document has lost its operations"
    assert answered >= 30, "most requests end before they reach a verifier"


def generations(url: str) -> int:
    """How many requests got as far as a verifier, by the gateway's own count."""
    shown = httpx.get(f"{url}/metrics", trust_env=False).text
    counts = re.findall(r"^edgedraft_gateway_requests_total\{.*\} (\S+)$", shown, re.MULTILINE)
    return round(sum(map(float, counts)))


def schemathesis(url: str, folder: Path) -> str:
    """What it printed; the test fails if it found a server error."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {KEY}", "--checks", "not_a_server_error"]
    command += ["--max-examples", str(EXAMPLES), "--seed", "1", "--request-timeout", "60", "--no-color"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS), "EDGEDRAFT_TEST_MODEL": "stub"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
