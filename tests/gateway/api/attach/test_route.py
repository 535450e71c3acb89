"""The page's files, the draft models for it, and attaching with a ticket in place of a key."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from edgedraft import wire
from edgedraft.draft_manifest import DraftFile, DraftManifest, Variant
from edgedraft.wire import AgentWelcome, Hello
from tests.gateway.conftest import Gateway, running_gateway
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.toy_model import FINGERPRINT
from tests.support.valkey_server import ValkeyServer

APP = "https://app.example.com"


async def ticket(gateway: Gateway, key: str | None = None, origin: str | None = None) -> str:
    async with gateway.http() if key is None else gateway.http(key) as http:
        answer = await http.post("/v1/edge/tickets", headers={"origin": gateway.url if origin is None else origin})
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        return answer.json()["ticket"]


async def dial(gateway: Gateway, name: str, origin: str | None = None) -> ClientConnection:
    url = gateway.url.replace("http", "ws") + "/v1/agent"
    offered = [Subprotocol("edgedraft.agent"), Subprotocol(f"ticket.{name}")]
    return await connect(
        url, subprotocols=offered, origin=Origin(gateway.url if origin is None else origin), proxy=None
    )


async def refused(gateway: Gateway, name: str, origin: str | None = None) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as denied:
        await dial(gateway, name, origin)
    response = denied.value.response
    return response.status_code, msgspec.json.decode(response.body or b"")["error"]["code"]


async def test_a_ticket_attaches_a_browser_for_its_key(gateway: Gateway) -> None:
    key = await gateway.accounts.create("ann", "acme", ["edge"])
    async with await dial(gateway, await ticket(gateway, key)) as socket:
        assert socket.subprotocol == "edgedraft.agent"
        await socket.send(wire.encode_frame([Hello(wire.PROTOCOL, "browser", FINGERPRINT, "draft by wasm", 4)]))
        (welcome,) = wire.decode_to_agent(await socket.recv())
        assert isinstance(welcome, AgentWelcome)
        (agent,) = gateway.state.agents.attached()
        assert agent.owner == ("acme", "ann")
    async with gateway.http(key) as http:
        assert (await http.get("/attach/drafts")).status_code == 200


async def test_a_ticket_opens_one_socket(gateway: Gateway) -> None:
    name = await ticket(gateway)
    async with await dial(gateway, name):
        assert await refused(gateway, name) == (401, "invalid_ticket")
    assert await refused(gateway, "x" * 43) == (401, "invalid_ticket")
    assert await refused(gateway, "") == (401, "invalid_ticket")


async def test_a_ticket_expires(gateway: Gateway) -> None:
    tickets = gateway.state.tickets
    name = await ticket(gateway)
    tickets._clock = lambda: asyncio.get_running_loop().time() + 1e6
    assert await refused(gateway, name) == (401, "invalid_ticket")


async def test_a_ticket_is_for_the_page_that_asked_for_it(tmp_path: Path, verifier: ScriptedVerifier) -> None:
    async with running_gateway(tmp_path, verifier, allowed_origins=[APP]) as gateway:
        async with await dial(gateway, await ticket(gateway, origin=APP), APP):
            pass
        assert await refused(gateway, await ticket(gateway, origin=APP)) == (403, "invalid_origin")
        assert await refused(gateway, await ticket(gateway), APP) == (403, "invalid_origin")
        assert await refused(gateway, await ticket(gateway), "https://evil.example.com") == (403, "invalid_origin")


async def test_a_browser_hears_of_the_gateway_while_nothing_is_drafted(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.api.agent_endpoint.SIGN_OF_LIFE_SECONDS", 0.02)
    async with await dial(gateway, await ticket(gateway)) as socket:
        await socket.send(wire.encode_frame([Hello(wire.PROTOCOL, "browser", FINGERPRINT, "", 4)]))
        frames = [wire.decode_to_agent(await socket.recv()) for _ in range(3)]
    assert isinstance(frames[0][0], AgentWelcome)
    assert frames[1:] == [[], []]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("gateway.example.com", "https://gateway.example.com"),
        ("GATEWAY.example.com:443", "https://gateway.example.com"),
        ("[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ],
)
async def test_the_gateways_own_page_is_known_behind_proxies(gateway: Gateway, host: str, origin: str) -> None:
    async with gateway.http() as http:
        answer = await http.post("/v1/edge/tickets", headers={"host": host, "origin": origin})
        assert answer.status_code == 200
        other = await http.post("/v1/edge/tickets", headers={"host": host, "origin": origin + ".evil.example.com"})
        assert other.status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example.com", "null", "http://[::1", "http://127.0.0.1"])
async def test_pages_of_other_origins_get_no_ticket(gateway: Gateway, origin: str) -> None:
    async with gateway.http() as http:
        answer = await http.post("/v1/edge/tickets", headers={"origin": origin})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "invalid_origin")


async def test_only_keys_with_the_edge_scope_get_tickets_and_drafts(gateway: Gateway) -> None:
    key = await gateway.accounts.create("ann", "acme", ["inference"])
    for path in ("/attach/drafts", "/attach/drafts/" + "0" * 64):
        async with gateway.http(key) as http:
            assert (await http.get(path)).status_code == 403
    for name, status in ((key, 403), ("ed-wrong", 401), ("", 401)):
        async with gateway.http(name) as http:
            assert (await http.post("/v1/edge/tickets")).status_code == status


async def test_a_revoked_key_detaches_its_browser(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.accounts.watch.CHECK_SECONDS", 0.05)
    key = await gateway.accounts.create("ann", "acme", ["edge"])
    unused = await ticket(gateway, key)
    async with await dial(gateway, await ticket(gateway, key)) as socket:
        await socket.send(wire.encode_frame([Hello(wire.PROTOCOL, "browser", FINGERPRINT, "", 4)]))
        await socket.recv()
        (record,) = [record for record in await gateway.accounts.list() if record.owner == "ann"]
        await gateway.accounts.revoke(record.id)
        async with asyncio.timeout(60):
            await socket.wait_closed()
        assert socket.close_code == wire.UNAUTHORIZED
    assert await refused(gateway, unused) == (401, "invalid_api_key")


async def test_another_replica_takes_the_ticket(
    tmp_path: Path, valkey: ValkeyServer, verifier: ScriptedVerifier
) -> None:
    shared: dict[str, Any] = {
        "redis": valkey.url,
        "replica_secret": "replicas-of-the-tests",
        "replica_port": 0,
        "allowed_origins": [APP],
    }
    async with (
        running_gateway(tmp_path, verifier, **shared) as here,
        running_gateway(tmp_path, verifier, **shared) as there,
    ):
        name = await ticket(here, origin=APP)
        async with await dial(there, name, APP):
            pass
        assert await refused(here, name, APP) == (401, "invalid_ticket")


def exported(folder: Path, fingerprint: str = FINGERPRINT, **changes: Any) -> DraftManifest:
    """A folder with files of the right sizes; what is in them matters to browsers only."""
    folder.mkdir(parents=True)

    def write(name: str, content: bytes) -> DraftFile:
        (folder / name).write_bytes(content)
        return DraftFile(name, len(content), hashlib.sha256(content).hexdigest())

    ids, graph = write("head_ids.bin", bytes(8)), write("draft.int8.onnx", b"graph of " + folder.name.encode())
    fields: dict[str, Any] = {
        "name": folder.name,
        "target": "toy",
        "fingerprint": fingerprint,
        "vocab_size": 300,
        "columns": 2,
        "layers": 1,
        "kv_heads": 1,
        "head_dim": 2,
        "context_length": 128,
        "head_ids": ids,
        "variants": {"int8": Variant(graph, "float32")},
    }
    manifest = DraftManifest(**fields | changes)
    (folder / "draft.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


async def test_drafts_that_fit_a_served_model_are_offered(tmp_path: Path, verifier: ScriptedVerifier) -> None:
    drafts = tmp_path / "drafts"
    manifest = exported(drafts / "fits")
    exported(drafts / "another", fingerprint="f" * 64)
    runtime = drafts / "onnxruntime-web"
    runtime.mkdir()
    (runtime / "ort.wasm.min.mjs").write_text("export {}")
    (runtime / "secret.txt").write_text("not a part of it")
    async with running_gateway(tmp_path, verifier, browser_drafts=drafts) as gateway, gateway.http() as http:
        offers = (await http.get("/attach/drafts")).json()
        (offer,) = offers["drafts"]
        assert (offer["model"], offer["name"], offer["fingerprint"]) == ("toy", "fits", FINGERPRINT)
        assert offer["variants"]["int8"]["kvType"] == "float32"
        sizes = {"columns": 2, "layers": 1, "kvHeads": 1, "headDim": 2, "contextLength": 128, "vocabSize": 300}
        assert offer["shape"] == sizes
        graph = await http.get(offer["variants"]["int8"]["file"]["url"])
        assert hashlib.sha256(graph.content).hexdigest() == manifest.variants["int8"].file.sha256
        assert graph.headers["cache-control"] == "no-store", "the page keeps it, once its checksum was right"
        head = await http.head(offer["variants"]["int8"]["file"]["url"])
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(graph.content)))
        assert head.content == b""
        script = await http.get(offers["runtime"] + "ort.wasm.min.mjs")
        assert script.headers["content-type"].startswith("text/javascript")
        assert script.headers["cross-origin-embedder-policy"] == "require-corp"
        again = await http.get(script.request.url, headers={"if-none-match": script.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        for path in ("runtime/secret.txt", "runtime/..%2Ffits%2Fdraft.json", "drafts/draft.json", "drafts/" + "0" * 64):
            assert (await http.get(f"/attach/{path}")).status_code == 404


@pytest.mark.parametrize(
    "damage",
    [
        b"not JSON",
        b"{}",
        b"[" * 60_000,
        b" " * 100_000,
        {"format": 2},
        {"columns": 400},
        {"layers": 10**9},
        {"head_ids": {"name": "../../secret", "bytes": 8, "sha256": "0" * 64}},
        {"head_ids": {"name": "head_ids.bin", "bytes": 7, "sha256": "0" * 64}},
        {"head_ids": {"name": "head_ids.bin", "bytes": 8, "sha256": "0" * 64}},
        {"head_ids": {"name": "missing.bin", "bytes": 8, "sha256": "0" * 64}},
        {"variants": {}},
        {"variants": {"int4": {"file": {"name": "a", "bytes": 1, "sha256": "0" * 64}, "kv_dtype": "float32"}}},
    ],
    ids=str,
)
async def test_a_damaged_draft_is_left_out(
    tmp_path: Path, verifier: ScriptedVerifier, damage: bytes | dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    manifest = tmp_path / "drafts" / "damaged" / "draft.json"
    exported(manifest.parent)
    exported(tmp_path / "drafts" / "good")
    content = (
        damage
        if isinstance(damage, bytes)
        else msgspec.json.encode(msgspec.json.decode(manifest.read_bytes()) | damage)
    )
    manifest.write_bytes(content)
    async with (
        running_gateway(tmp_path, verifier, browser_drafts=tmp_path / "drafts") as gateway,
        gateway.http() as http,
    ):
        offers = (await http.get("/attach/drafts")).json()
    assert [offer["name"] for offer in offers["drafts"]] == ["good"]
    assert offers["runtime"] == ""
    assert "draft left out" in caplog.text


async def test_a_gateway_without_drafts_says_so(gateway: Gateway) -> None:
    async with gateway.http() as http:
        assert (await http.get("/attach/drafts")).json() == {"drafts": [], "runtime": ""}


async def test_the_page_runs_nothing_but_its_own_files(gateway: Gateway) -> None:
    async with gateway.http("") as http:
        page = await http.get("/attach")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "'unsafe-eval'" not in policy.replace("'wasm-unsafe-eval'", "")
        assert "'unsafe-inline'" not in policy
        assert page.headers["cross-origin-opener-policy"] == "same-origin"
        assert page.headers["cross-origin-embedder-policy"] == "require-corp"
        assert "http://" not in page.text
        assert "https://" not in page.text
        worker = await http.get("/attach/page/agent/worker.js")
        assert worker.status_code == 200
        assert worker.headers["cross-origin-embedder-policy"] == "require-corp", "without it the worker has no threads"
        again = await http.get("/attach/page/agent/worker.js", headers={"if-none-match": worker.headers["etag"]})
        assert again.status_code == 304
        for name in ("nothing.js", "../route.py", "%2E%2E/route.py", "tsconfig.json", "agent"):
            assert (await http.get(f"/attach/page/{name}")).status_code == 404
