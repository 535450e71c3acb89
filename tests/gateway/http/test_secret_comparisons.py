"""Secrets are compared in a time that tells nothing of where a candidate is wrong."""

from __future__ import annotations

import hmac

import pytest

from gateway.accounts import Accounts
from gateway.replicas.handshake import Handshake, HandshakeFailed
from gateway.storage.database import Database
from tests.gateway.conftest import KEY


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | bytes, str | bytes]]:
    seen: list[tuple[str | bytes, str | bytes]] = []
    right = hmac.compare_digest

    def compare_digest(one: str | bytes, other: str | bytes) -> bool:
        seen.append((one, other))
        return right(one, other)  # type: ignore[arg-type]

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    return seen


async def test_the_static_key_by_its_digest(
    database: Database, compared: list[tuple[str | bytes, str | bytes]]
) -> None:
    accounts = Accounts(database, KEY)
    for candidate in (KEY, KEY[:-1], "x", "ed-" + "é"):
        compared.clear()
        assert bool(await accounts.find(candidate)) == (candidate == KEY)
        assert [len(side) for side in compared[0]] == [64, 64]


def test_replicas_proofs(compared: list[tuple[str | bytes, str | bytes]]) -> None:
    with pytest.raises(HandshakeFailed):
        Handshake("a secret of seventeen").verify("ws://a", "number 1 proof")
    assert len(compared) == 1
