"""At log level debug, no key, no prompt, no answer and no token id is in the log."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from edgedraft.observability.logs import PACKAGES, LogFormat, configure_logging
from tests.gateway.api.test_chat import user
from tests.gateway.conftest import KEY, Gateway
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.toy_model import TOKENIZER

WORD = "Zanzibar-7"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    for ours in PACKAGES:
        logging.getLogger(ours).setLevel(logging.NOTSET)


@pytest.mark.parametrize("form", ["text", "json"])
async def test_nothing_that_is_secret_is_logged(
    gateway: Gateway, verifier: ScriptedVerifier, capfd: pytest.CaptureFixture[str], form: LogFormat
) -> None:
    configure_logging("debug", form)
    key = await gateway.accounts.create("ann", "default", ["inference", "edge"])
    async with gateway.agent(key), gateway.http(key) as http:
        for stream in (False, True):
            chat = {"model": "toy", "messages": user(f"say {WORD}"), "stream": stream, "user": WORD, "stop": [WORD * 2]}
            assert WORD in (await http.post("/v1/chat/completions", json=chat)).text
        kept = {"model": "toy", "input": f"say {WORD}", "store": True}
        assert WORD in (await http.post("/v1/responses", json=kept)).text
        # What goes wrong, too.
        verifier.fail_at = 3
        assert WORD in (await http.post("/v1/chat/completions", json=chat)).text
        verifier.garble_at = 2
        assert WORD in (await http.post("/v1/chat/completions", json=chat)).text
        for body in (
            f'{{"model": "{WORD}"',
            json.dumps({"model": WORD}),
            json.dumps({"model": "toy", "messages": WORD}),
        ):
            await http.post("/v1/chat/completions", content=body)
        await http.get("/v1/models", headers={"authorization": f"Bearer {WORD}"})
    async with gateway.http(KEY) as http:
        await http.get(f"/v1/models/{WORD}")
    recorded = capfd.readouterr().err
    assert "outcome" in recorded
    assert "agent attached" in recorded
    ids = TOKENIZER.encode(WORD, add_special_tokens=False).ids
    paths = [line for line in recorded.splitlines() if "/v1/models/" in line]
    recorded = "\n".join(line for line in recorded.splitlines() if line not in paths)  # a path is no prompt
    for secret in (key, key[3:], KEY, WORD, WORD.lower(), ", ".join(map(str, ids[:4]))):
        assert secret not in recorded, [line for line in recorded.splitlines() if secret in line][:3]
