"""`bench gateway` and `bench streams` at a small size, with the real gateway and stub verifiers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest

from loadtest import chat_load
from loadtest.benchmarks import gateway, streams
from loadtest.chat_load import LoadResult, Target
from loadtest.peers.gateways.process import ServerError, ServerProcess, start_stub
from loadtest.peers.gateways.script import TEXT, script_pieces, script_tokens


@pytest.fixture
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[gateway.Side]:
    for name, value in {"REQUESTS": 8, "ROUNDS": 2, "TOKENS": 6, "TOKEN_INTERVAL": 0.01}.items():
        monkeypatch.setattr(gateway, name, value)
    with ExitStack() as running:
        yield gateway._start_gateway(running, tmp_path)


def send(target: Target, requests: int, stream: bool) -> LoadResult:
    async def work(session: aiohttp.ClientSession) -> LoadResult:
        return await chat_load.run_load(target, requests, concurrency=4, stream=stream, session=session)

    return chat_load.run_with_client(work)


def test_what_the_stubs_say_is_the_text_in_tokens() -> None:
    assert TEXT.startswith("".join(script_pieces(40)))
    assert len(script_tokens(500)) == len(script_pieces(500)) == 500


def test_a_side_is_measured_and_every_text_is_compared(side: gateway.Side) -> None:
    cells = gateway.compare([side])
    (row,) = gateway.rows(cells, {side.name: 100.0})
    assert row["failed"] == 0
    assert row["tokens_per_chunk"] == pytest.approx(1, abs=0.2)
    assert len(cells[side.name][True].cpu) == 2
    target = side.target(stream=True)
    wrong = Target(target.url, target.key, target.model, target.prompt, target.tokens, "something else")
    assert [failure[:12] for failure in send(wrong, 3, stream=True).failures] == ["another text"] * 3
    stranger = Target(target.url, "no-key", target.model, target.prompt, target.tokens, target.text)
    assert all("status 401" in failure for failure in send(stranger, 2, stream=True).failures)


def test_a_wave_of_streams_loses_none(side: gateway.Side) -> None:
    wave = streams.run_wave(side.target(stream=True), side.pid, count=60)
    assert (wave.load.correct, wave.load.failures) == (60, [])
    assert wave.peak >= wave.before > 20
    assert streams.rows([wave])[0]["lost"] == 0


def test_the_stub_server_says_what_the_stub_verifier_says(tmp_path: Path) -> None:
    server = start_stub("stub_openai", "streamed", "0.001", folder=tmp_path)
    try:
        target = Target(server.read_url(), "", "streamed", "hello", 6, "".join(script_pieces(6)))
        for stream in (True, False):
            result = send(target, 4, stream)
            assert (result.correct, result.failures) == (4, [])
        assert result.chunks == 0
    finally:
        server.stop()


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    server = ServerProcess(["/bin/sh", "-c", "echo no such thing >&2; exit 3"], tmp_path / "log")
    with pytest.raises(ServerError, match="no such thing"):
        server.read_url()
    server.stop()


def test_ratios_need_both_sides() -> None:
    row = {"CPU_ms_per_request": 2.0, "CPU_ms_per_streamed_token": 0.1, "requests_per_s_on_one_core": 400.0}
    other = {"CPU_ms_per_request": 10.0, "CPU_ms_per_streamed_token": 1.0, "requests_per_s_on_one_core": 50.0}
    assert gateway.ratios([row]) == {}
    assert [round(ratio, 6) for ratio in gateway.ratios([row, other]).values()] == [5, 10, 8]
