"""A verifier that sends invalid messages: the session reopens at another one, and the gateway is unaffected."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from edgedraft import wire
from edgedraft.wire import Close, Commit, Open, Queued, TokenLogprobs
from tests.gateway.api.test_chat import user
from tests.gateway.conftest import running_gateway
from tests.support.scripted_verifier import OpenSession, ScriptedVerifier
from tests.support.toy_model import VOCAB_SIZE, card

Said = Callable[[int], Sequence[Struct]]


@dataclass
class HostileVerifier(ScriptedVerifier):
    """Answers every Open with `said`, again and again, so that it is never silent."""

    said: Said = field(default=lambda session: [])
    saying: set[asyncio.Task[None]] = field(default_factory=set)

    async def _handle(self, connection: ServerConnection, sessions: dict[int, OpenSession], message: object) -> None:
        if isinstance(message, Open):
            self.opened.append(message)
            self.saying.add(asyncio.create_task(self._say(connection, message.session)))

    async def _say(self, connection: ServerConnection, session: int) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.send(wire.encode_frame(self.said(session)))
                await asyncio.sleep(0.5)

    async def stop(self) -> None:
        for task in self.saying:
            task.cancel()
        await super().stop()


SAID: dict[str, Said] = {
    "a token outside the vocabulary": lambda s: [Commit(s, 0, [VOCAB_SIZE])],
    "commits of nothing": lambda s: [Commit(s, 0, [])] * 1000,
    "a place in the future": lambda s: [Commit(s, 7, [1])],
    "more tokens than were asked for": lambda s: [Commit(s, 0, [97] * 100)],
    "nodes below nothing": lambda s: [Commit(s, 0, [97], nodes=-5)],
    "more accepted than any window holds": lambda s: [Commit(s, 0, [97], nodes=1, depth=2**31, accepted=2**31)],
    "time that is no number": lambda s: [Commit(s, 0, [97], seconds=float("nan"))],
    "time that runs back": lambda s: [Commit(s, 0, [97], seconds=-1.0)],
    "more cached than nothing": lambda s: [Commit(s, 0, [97], cached=-1)],
    "no log-probabilities": lambda s: [Commit(s, 0, [97])],
    "log-probabilities without tokens": lambda s: [Commit(s, 0, [97], logprobs=[TokenLogprobs(-1.0, [], [-1.0])])],
    "a thousand places in line": lambda s: [*[Queued(s, 3)] * 1000, Close(s, wire.CLOSE_FAILED)],
    "to come again never": lambda s: [Close(s, wire.CLOSE_OVERLOADED, "", float("inf"))],
    "somebody else's session": lambda s: [Commit(s + 1000, 0, [97])],
}


@pytest.mark.parametrize("what", SAID)
async def test_what_it_says_is_not_taken_and_another_goes_on(
    tmp_path: Path, verifier: ScriptedVerifier, what: str
) -> None:
    asked = {
        "model": "toy",
        "messages": user("babble"),
        "max_tokens": 12,
        "seed": 3,
        "logprobs": "log-prob" in what,
        "top_logprobs": 1 if "log-prob" in what else None,
    }
    async with running_gateway(tmp_path, verifier) as gateway, gateway.http() as http:
        right = (await http.post("/v1/chat/completions", json=asked)).json()["choices"]
    async with HostileVerifier(said=SAID[what]) as hostile, running_gateway(tmp_path, hostile, verifier) as gateway:
        async with gateway.http() as http:
            for _ in range(2):  # one of the two begins at the hostile one
                response = await http.post("/v1/chat/completions", json=asked)
                assert response.status_code == 200, response.text
                assert response.json()["choices"] == right
        assert hostile.opened
        assert gateway.state.metrics.sessions._value.get() == 0


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 2**31},
        {"vocab_size": 0},
        {"context_length": -1},
        {"name": ""},
        {"name": "x" * 257},
        {"eos": tuple(range(300))},
        {"chat_template": "x" * (wire.MAX_TEMPLATE + 1)},
    ],
)
def test_a_card_out_of_bounds_is_no_card(change: dict[str, object]) -> None:
    welcome = wire.VerifierWelcome(wire.PROTOCOL, msgspec.structs.replace(card(), **change), 8)
    with pytest.raises(wire.WireError):
        wire.decode_from_verifier(wire.encode_frame([welcome]))
