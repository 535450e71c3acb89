"""Draft servers that fail or lie, over real sockets: what is refused, with which words, and that drafting goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from edge_agent.drafters.interface import NO_PROPOSAL, DraftRequest, first_chain
from edge_agent.drafters.loading import DrafterUnavailable, load_drafters
from edge_agent.drafters.server import connection, llama_server
from edge_agent.drafters.server.chains import ChainLength
from edge_agent.drafters.server.http_client import HttpClient, ServerError, parse_server_url
from edge_agent.settings import AgentSettings
from edgedraft.tokenizer import fingerprint
from edgedraft.wire import Sampling
from tests.support.scripted_model_server import ScriptedModelServer, scripted_model_server, send
from tests.support.waiting import wait_until

WORDS = [f"Ġword{i}" for i in range(300)]
CHAIN = 3


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    vocab = {word: i for i, word in enumerate(WORDS)}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": []}))
    return tmp_path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_BACKOFF", 0.05)
    monkeypatch.setattr(connection, "MAX_BACKOFF", 0.2)
    monkeypatch.setattr(ChainLength, "choose", lambda self, greedy: CHAIN)


@pytest.fixture
def server(tokenizer: Path) -> Iterator[ScriptedModelServer]:
    """A llama-server that counts: token n is followed by n + 1."""
    with scripted_model_server() as server:
        server.answers = {
            "/props": {"default_generation_settings": {"n_ctx": 2048}, "total_slots": 3, "model_path": str(tokenizer)},
            "/detokenize": lambda _, body: {"content": text_of(body["tokens"])},
            "/completion": lambda _, body: counting(body),
        }
        yield server


def text_of(tokens: list[int]) -> str:
    return "".join(WORDS[token].replace("Ġ", " ") for token in tokens)


def counting(body: dict[str, Any]) -> dict[str, Any]:
    first = (body["prompt"][-1] + 1) % len(WORDS)
    tokens = [(first + i) % len(WORDS) for i in range(body["n_predict"])]
    top = [[(token, -0.1), ((token + 7) % len(WORDS), -2.5)] for token in tokens]
    return {
        "tokens": tokens,
        "completion_probabilities": [
            {"id": token, "top_logprobs": [{"id": i, "logprob": value} for i, value in entries]}
            for token, entries in zip(tokens, top, strict=True)
        ],
    }


def settings(url: str, **options: Any) -> AgentSettings:
    return AgentSettings.model_validate({"url": "-", "key": "-", "draft_url": url, **options})


def request(context: list[int]) -> DraftRequest:
    return DraftRequest(1, context, len(context), 1, Sampling(temperature=0.0))


def changed(**fields: Any) -> Any:
    """The counting server's answer with some fields of its first token changed."""

    def answer(_: BaseHTTPRequestHandler, body: dict[str, Any]) -> dict[str, Any]:
        found = counting(body)
        found["completion_probabilities"][0] |= fields
        return found

    return answer


def top(*entries: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"id": token, "logprob": logprob} for token, logprob in entries]


def raw(content: bytes, status: int = 200, **headers: str) -> Any:
    return lambda handler, _: send(handler, content, status, **headers)


def drip(handler: BaseHTTPRequestHandler, _: Any) -> None:
    """An endless body, a byte at a time."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.02)


def flood(handler: BaseHTTPRequestHandler, _: Any) -> None:
    """An endless body as fast as it is read."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 65536)


def silent(handler: BaseHTTPRequestHandler, _: Any) -> None:
    time.sleep(1)
    handler.close_connection = True


def slow_head(handler: BaseHTTPRequestHandler, _: Any) -> None:
    while True:
        handler.wfile.write(b"H")
        handler.wfile.flush()
        time.sleep(0.02)


def babble(handler: BaseHTTPRequestHandler, _: Any) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
    handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler, _: Any) -> None:
    handler.close_connection = True


LIES: dict[str, tuple[Any, str]] = {
    "not in the top list": (changed(top_logprobs=top((5, -0.1))), "not among its most likely"),
    "positive": (changed(top_logprobs=top((12, 3.0))), "log-probabilities that are none"),
    "twice": (changed(top_logprobs=top((12, -1.0), (12, -1.0))), "a token twice"),
    "more than 1": (changed(top_logprobs=top((24, -0.1), (13, -0.1))), "more than 1"),
    "negative id": (changed(top_logprobs=top((-1, -0.1))), "something else than expected"),
    "text as id": (changed(top_logprobs=top(("12", -0.1))), "something else than expected"),
    "text as logprob": (changed(top_logprobs=top((12, "x"))), "something else than expected"),
    "null": (changed(top_logprobs=None), "something else than expected"),
    "another chain": (changed(id=99), "did not choose"),
    "too many": (lambda _, body: counting(body | {"n_predict": 50}), "50 tokens"),
    "none": ({"tokens": [], "completion_probabilities": []}, "0 tokens"),
    "nan": (
        raw(
            b'{"tokens": [12], "completion_probabilities": [{"id": 12, "top_logprobs": [{"id": 12, "logprob": NaN}]}]}'
        ),
        "something else than expected",
    ),
    "infinite": (
        raw(b'{"tokens": [12], "completion_probabilities": [{"id":12,"top_logprobs":[{"id":12,"logprob":-1e999}]}]}'),
        "",
    ),
    "a list": ([], "something else than expected"),
    "deep": (raw(b"[" * 100_000), "something else than expected"),
    "HTML": (raw(b"<html>sign in</html>", Content_Type="text/html"), "something else than expected"),
    "empty": (raw(b""), "something else than expected"),
    "redirect": (raw(b"", 307, Location="http://127.0.0.1:1/"), "redirects"),
    "error": (raw(b"\x1b[31mout of memory\n", 500), "HTTP 500"),
    "unauthorised": (raw(b"", 401), "--draft-key"),
    "drip": (drip, "did not answer within"),
    "flood": (flood, "more than"),
    "silent": (silent, "did not answer within"),
    "slow head": (slow_head, "did not answer within"),
    "another protocol": (babble, "does not speak HTTP"),
    "hang up": (hang_up, ""),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_is_given_up_and_taken_again_when_it_is_honest(
    server: ScriptedModelServer, lie: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drafter = load_drafters(settings(server.url, prompt_lookup=True)).new_drafter(len(WORDS))
    drafter.open(1)
    honest = server.answers["/completion"]
    wait_until(lambda: drafter.propose([request([9, 10])])[0].tokens)
    assert first_chain(drafter_answer(drafter, [9, 10])) == [11, 12, 13]
    monkeypatch.setattr(llama_server, "CALL_SECONDS", 0.3)
    server.answers["/completion"], words = LIES[lie]
    repeating = [20, 21, 22, 23, 24, 20, 21, 22, 23]
    wait_until(lambda: drafter.propose([request(repeating)])[0].complete)
    for _ in range(3):
        assert first_chain(drafter.propose([request(repeating)])[0])[0] == 24, "prompt lookup goes on"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1, warnings
    assert words in warnings[0]
    assert "\x1b" not in warnings[0]
    monkeypatch.setattr(llama_server, "CALL_SECONDS", 10.0)
    server.answers["/completion"] = honest
    wait_until(lambda: first_chain(drafter.propose([request([9, 10])])[0]) == [11, 12, 13])
    drafter.close(1)


def drafter_answer(drafter: Any, context: list[int]) -> Any:
    found: list[Any] = []

    def complete() -> bool:
        found[:] = drafter.propose([request(context)])
        return found[0].complete

    wait_until(complete)
    return found[0]


def test_a_slow_server_delays_nobody(server: ScriptedModelServer) -> None:
    drafter = load_drafters(settings(server.url)).new_drafter(len(WORDS))
    drafter.open(1)
    honest = server.answers["/completion"]

    def slow(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> Any:
        time.sleep(0.5)
        return honest(handler, body)

    server.answers["/completion"] = slow
    repeating = [20, 21, 22, 23, 24, 20, 21, 22, 23]
    [first] = drafter.propose([request(repeating)])
    assert not first.complete, "the server's part comes later"
    assert first.tokens[0] == 24, "prompt lookup's does not wait for it"
    calls = len(server.bodies("/completion"))
    wait_until(lambda: drafter.propose([request(repeating)])[0].complete)
    assert len(server.bodies("/completion")) == calls, "one call, however often it is asked for"


def test_what_was_drafted_while_a_commit_came_is_of_use(server: ScriptedModelServer) -> None:
    """A server that is slower than the verifier would otherwise never draft anything that counts."""
    drafter = load_drafters(settings(server.url, prompt_lookup=False)).new_drafter(len(WORDS))
    drafter.open(1)
    honest, going_on = server.answers["/completion"], threading.Event()

    def late(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> Any:
        going_on.wait(60)
        return honest(handler, body)

    server.answers["/completion"] = late
    before = len(server.bodies("/completion"))
    for context in ([9, 10], [9, 10, 11]):
        assert not drafter.propose([request(context)])[0].complete
    going_on.set()
    assert first_chain(drafter_answer(drafter, [9, 10, 11])) == [12, 13]
    assert len(server.bodies("/completion")) == before + 1
    assert first_chain(drafter_answer(drafter, [9, 10, 12])) == [13, 14, 15], "of another text it is none"


def test_a_session_gets_the_slot_of_one_that_ends_later(server: ScriptedModelServer) -> None:
    server.answers["/props"]["total_slots"] = 2  # one of them is its owner's
    drafter = load_drafters(settings(server.url, prompt_lookup=False)).new_drafter(len(WORDS))
    honest, going_on = server.answers["/completion"], threading.Event()

    def late(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> Any:
        going_on.wait(60)
        return honest(handler, body)

    server.answers["/completion"] = late
    drafter.open(1)
    assert not drafter.propose([request([9, 10])])[0].complete
    drafter.close(1)
    drafter.open(1)
    assert not drafter.propose([request([9, 10, 11])])[0].complete, "it waits for the slot"
    going_on.set()
    assert first_chain(drafter_answer(drafter, [9, 10, 11])) == [12, 13, 14]


def test_nothing_is_sent_to_another_users_process_that_took_the_port(server: ScriptedModelServer) -> None:
    belongs = [True]
    client = HttpClient(parse_server_url(server.url), lambda: belongs[0])
    server.answers["/secret"] = raw(b"{}", Connection="close")
    assert client.post("/secret", {"prompt": [1, 2]}, dict, 30) == {}
    belongs[0] = False
    with pytest.raises(ServerError, match="another user's process"):
        client.post("/secret", {"prompt": [1, 2]}, dict, 30)
    assert len(server.bodies("/secret")) == 1


def test_a_server_that_comes_back_with_another_tokenizer_is_not_used(
    server: ScriptedModelServer, tokenizer: Path
) -> None:
    drafter = load_drafters(settings(server.url, prompt_lookup=False)).new_drafter(len(WORDS))
    drafter.open(1)
    assert drafter_answer(drafter, [9, 10]).tokens
    (tokenizer / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {w: i for i, w in enumerate(WORDS[:-1])}}})
    )
    honest, server.answers["/completion"] = server.answers["/completion"], raw(b"", 500)
    wait_until(lambda: drafter.propose([request([9, 10])]) == [NO_PROPOSAL])
    server.answers["/completion"] = honest
    seen = len(server.bodies("/detokenize"))

    def tried_twice() -> bool:
        assert drafter.propose([request([9, 10])]) == [NO_PROPOSAL]
        return len(server.bodies("/detokenize")) > seen + 1

    wait_until(tried_twice)
    assert drafter.propose([request([9, 10])]) == [NO_PROPOSAL]


def refusal(server: ScriptedModelServer, **options: Any) -> str:
    with pytest.raises(DrafterUnavailable) as caught:
        load_drafters(settings(server.url, **options))
    return str(caught.value)


def test_another_tokenizer_at_the_server_is_refused(server: ScriptedModelServer) -> None:
    server.answers["/detokenize"] = lambda _, body: {"content": text_of(body["tokens"]).replace("word77 ", "word78 ")}
    assert "another tokenizer: tokens 0 to 299" in refusal(server)


def test_a_server_that_does_not_tell_its_tokenizer_needs_one(server: ScriptedModelServer, tokenizer: Path) -> None:
    server.answers["/props"]["model_path"] = "/nowhere/model.gguf"
    assert "--draft-tokenizer" in refusal(server)
    assert "no tokenizer.json" in refusal(server, draft_tokenizer=str(tokenizer / "none"))
    drafters = load_drafters(settings(server.url, draft_tokenizer=str(tokenizer)))
    assert drafters.fingerprint == fingerprint((tokenizer / "tokenizer.json").read_bytes())


def test_vllm_is_asked_for_token_ids(tokenizer: Path) -> None:
    def completions(_: Any, body: dict[str, Any]) -> dict[str, Any]:
        assert body["return_tokens_as_token_ids"]
        assert body["model"] == "small"
        assert body["logprobs"] <= 20
        found = counting({"prompt": body["prompt"], "n_predict": body["max_tokens"]})["completion_probabilities"]
        entries = [{f"token_id:{e['id']}": e["logprob"] for e in place["top_logprobs"]} for place in found]
        return {"choices": [{"logprobs": {"tokens": [next(iter(e)) for e in entries], "top_logprobs": entries}}]}

    with scripted_model_server() as server:
        model = {"id": "small", "root": str(tokenizer), "owned_by": "vllm", "max_model_len": 1024}
        server.answers = {
            "/v1/models": {"data": [model]},
            "/v1/completions": completions,
            "/detokenize": lambda _, body: {"prompt": text_of(body["tokens"])},
        }
        drafters = load_drafters(settings(server.url, draft_key="key"))
        assert (drafters.device, drafters.description.split(",")[0]) == ("vllm", f"small by vllm at {server.url}")
        drafter = drafters.new_drafter(len(WORDS))
        drafter.open(1)
        assert first_chain(drafter_answer(drafter, [9, 10])) == [11, 12, 13]
        assert {headers["Authorization"] for _, headers, _ in server.requests} == {"Bearer key"}


def test_sglang_is_asked_by_its_own_api(tokenizer: Path) -> None:
    def generate(_: Any, body: dict[str, Any]) -> dict[str, Any]:
        length = body["sampling_params"]["max_new_tokens"]
        found = counting({"prompt": body["input_ids"], "n_predict": length})["completion_probabilities"]
        entries = [[[e["logprob"], e["id"], None] for e in place["top_logprobs"]] for place in found]
        chosen = [rows[0] for rows in entries]
        return {"text": "", "meta_info": {"output_token_logprobs": chosen, "output_top_logprobs": entries}}

    with scripted_model_server() as server:
        server.answers = {
            "/get_model_info": {"model_path": "org/small", "tokenizer_path": str(tokenizer), "is_generation": True},
            "/generate": generate,
            "/detokenize": lambda _, body: {"text": text_of(body["tokens"])},
        }
        drafters = load_drafters(settings(server.url.replace("http://", "http://ann:pass%20word@")))
        assert (drafters.device, drafters.description.split(",")[0]) == ("sglang", f"small by sglang at {server.url}")
        drafter = drafters.new_drafter(len(WORDS))
        drafter.open(1)
        assert first_chain(drafter_answer(drafter, [9, 10])) == [11, 12, 13]
        assert {headers["Authorization"] for _, headers, _ in server.requests} == {"Basic YW5uOnBhc3Mgd29yZA=="}


@pytest.mark.parametrize(
    ("logprobs", "words"),
    [
        (None, "no log-probabilities"),
        ({"tokens": [" a"], "top_logprobs": [{" a": -0.1}]}, "without their ids"),
        ({"tokens": ["token_id:5"], "top_logprobs": []}, "do not fit"),
    ],
)
def test_completions_without_token_ids_are_refused(tokenizer: Path, logprobs: Any, words: str) -> None:
    """Such as LM Studio's, which also answers unknown paths with 200."""
    unknown = {"error": "Unexpected endpoint or method."}
    with scripted_model_server() as server:
        server.answers = dict.fromkeys(("/props", "/get_model_info", "/api/version"), unknown) | {
            "/v1/models": {"data": [{"id": "small", "owned_by": "organization_owner"}]},
            "/v1/completions": {"choices": [{"text": "a", "logprobs": logprobs}]},
        }
        assert words in refusal(server, draft_tokenizer=str(tokenizer))


def test_ollama_is_refused_and_its_file_is_named() -> None:
    with scripted_model_server() as server:
        server.answers = {
            "/api/version": {"version": "0.13.0"},
            "/api/tags": {"models": [{"name": "small:latest"}]},
            "/api/show": {"modelfile": "# made by ollama\nFROM /home/ann/.ollama/models/blobs/sha256-ab\nTEMPLATE x\n"},
        }
        assert "--draft-model /home/ann/.ollama/models/blobs/sha256-ab" in refusal(server)
        server.answers["/api/show"] = {"modelfile": "FROM /tmp/\x1b[2J\n"}
        assert "\x1b" not in refusal(server)


def test_what_is_no_model_server_is_refused() -> None:
    with scripted_model_server() as server:
        assert "neither llama-server's API" in refusal(server)
        for url in ("ftp://127.0.0.1/", "127.0.0.1:8080", "http://", "file:///etc/passwd"):
            with pytest.raises(DrafterUnavailable, match="looks like"):
                load_drafters(settings(url))
        with pytest.raises(DrafterUnavailable, match="characters"):
            load_drafters(settings(server.url, draft_key="a\nX-Other: b"))
        server.answers["/props"] = raw(b"", 503)
        assert "HTTP 503" in refusal(server)
    assert "cannot be reached" in refusal(server)
