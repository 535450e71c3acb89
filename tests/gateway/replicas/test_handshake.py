"""Challenges and responses of replicas."""

from __future__ import annotations

import pytest

from gateway.replicas.handshake import Handshake, HandshakeFailed

SECRET = "replicas-of-the-tests"


def test_a_challenge_is_for_one_replica_and_one_use() -> None:
    now = 1000.0
    here, there = Handshake(SECRET, lambda: now), Handshake(SECRET, lambda: now)
    challenge, response = here.challenge("ws://there")
    with pytest.raises(HandshakeFailed):
        there.verify("ws://elsewhere", challenge)
    there.verify("ws://there", challenge)
    assert there.respond("ws://there", challenge) == response
    assert Handshake("another secret, just as long").respond("ws://there", challenge) != response
    with pytest.raises(HandshakeFailed, match="before"):
        there.verify("ws://there", challenge)
    old, _ = here.challenge("ws://there")
    now += 61
    with pytest.raises(HandshakeFailed, match="old"):
        there.verify("ws://there", old)
    for wrong in ("", "a", "a b", "a b c d", old[:-1], "\udcff 1 \udcfe"):
        with pytest.raises(HandshakeFailed):
            there.verify("ws://there", wrong)
    with pytest.raises(ValueError, match="16"):
        Handshake("too short")
