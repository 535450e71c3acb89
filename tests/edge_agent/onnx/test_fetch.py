"""`edgedraft draft fetch`, from a real gateway and from hostile ones."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.drafters.candidates import find_candidates
from edge_agent.onnx import fetch, providers
from edge_agent.onnx.kept import find_kept
from edge_agent.onnx.model import OnnxModel, load_model
from edge_agent.onnx.providers import Provider, ProviderDevice
from edge_agent.settings import AgentSettings, DraftFetchSettings
from edgedraft.draft_manifest import MANIFEST_FILE, DraftFile
from tests.gateway.conftest import KEY, Gateway, running_gateway
from tests.support.scripted_model_server import ScriptedModelServer, scripted_model_server, send
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.toy_model import FINGERPRINT, NAME

OFFERS = "/attach/drafts"


def rewrite_manifest(folder: Path, **values: Any) -> None:
    document = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps(document | values))


@pytest.fixture
def offered(tiny: Path, tmp_path: Path) -> Path:
    """A folder of drafts with one for the gateway's model."""
    shutil.copytree(tiny, tmp_path / "offered" / "tiny")
    rewrite_manifest(tmp_path / "offered" / "tiny", name="tiny", fingerprint=FINGERPRINT)
    return tmp_path / "offered"


@pytest.fixture
def drafts(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "drafts"


def settings(url: str, drafts: Path, **values: Any) -> DraftFetchSettings:
    return DraftFetchSettings.model_validate({"url": url, "key": KEY, "drafts_folder": drafts, **values})


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# A real gateway


@pytest.fixture
async def gateway(tmp_path: Path, offered: Path) -> AsyncIterator[Gateway]:
    async with ScriptedVerifier() as verifier, running_gateway(tmp_path, verifier, browser_drafts=offered) as gateway:
        yield gateway


async def test_what_a_gateway_offers_is_fetched_and_found(
    gateway: Gateway, offered: Path, drafts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await asyncio.to_thread(fetch.main, settings(gateway.url, drafts))
    (folder,) = find_kept(drafts)
    assert folder.name.startswith(FINGERPRINT[:16])
    assert files(folder) == {MANIFEST_FILE, "head_ids.bin", "draft.int8.onnx"}, "no accelerator is here"
    for name in files(folder):
        assert (folder / name).read_bytes() == (offered / "tiny" / name).read_bytes()
    told = capsys.readouterr().out
    assert f"the draft tiny for {NAME} is in {folder}" in told
    assert "it runs on cpu in int8" in told
    asked = {"url": gateway.url, "key": KEY, "drafts_folder": drafts, "runtime": "onnx", "threads": 1}
    (candidate,), _ = find_candidates(AgentSettings.model_validate(asked))
    drafters = candidate.load()
    assert (drafters.fingerprint, drafters.device) == (FINGERPRINT, "onnx cpu")


async def test_what_is_there_is_not_fetched_again(
    gateway: Gateway, drafts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = await asyncio.to_thread(fetch.fetch_draft, settings(gateway.url, drafts))
    graph = fetched.folder / "draft.int8.onnx"
    before = graph.stat().st_ino
    assert (await asyncio.to_thread(fetch.fetch_draft, settings(gateway.url, drafts))).folder == fetched.folder
    assert graph.stat().st_ino == before
    graph.write_bytes(b"damaged")
    await asyncio.to_thread(fetch.fetch_draft, settings(gateway.url, drafts))
    assert load_model(fetched.folder, "cpu", 1).variant == "int8"


async def test_a_newer_draft_replaces_an_older_one_for_the_same_tokenizer(
    tmp_path: Path, offered: Path, drafts: Path
) -> None:
    exported = drafts / "exported-mine"
    shutil.copytree(offered / "tiny", exported)
    another = drafts / f"{'a' * 16}-{'b' * 16}"
    another.mkdir()
    folders: list[Path] = []
    for context_length in (64, 128):
        rewrite_manifest(offered / "tiny", context_length=context_length)
        async with (
            ScriptedVerifier() as verifier,
            running_gateway(tmp_path, verifier, browser_drafts=offered) as gateway,
        ):
            folders.append((await asyncio.to_thread(fetch.fetch_draft, settings(gateway.url, drafts))).folder)
    assert files(drafts) == {exported.name, another.name, folders[1].name}
    assert find_kept(drafts)[0] == folders[1]


async def test_only_keys_with_the_edge_scope_get_drafts(gateway: Gateway, drafts: Path) -> None:
    key = await gateway.accounts.create("ann", "acme", ["inference"])
    for wrong, reason in ((key, "may not attach agents"), ("ed-wrong", "does not know this key")):
        with pytest.raises(SystemExit, match=reason):
            await asyncio.to_thread(fetch.main, settings(gateway.url, drafts, key=wrong))
    key = await gateway.accounts.create("bob", "acme", ["edge"])
    await asyncio.to_thread(fetch.main, settings(gateway.url, drafts, key=key))
    assert find_kept(drafts)


async def test_of_several_drafts_one_is_chosen_by_its_name(
    tmp_path: Path, offered: Path, drafts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(offered / "tiny", offered / "zeta")
    rewrite_manifest(offered / "zeta", name="zeta", context_length=99)
    async with ScriptedVerifier() as verifier, running_gateway(tmp_path, verifier, browser_drafts=offered) as gateway:
        await asyncio.to_thread(fetch.main, settings(gateway.url, drafts))
        assert "also offered, to be fetched with --draft NAME: zeta" in capsys.readouterr().out
        await asyncio.to_thread(fetch.main, settings(gateway.url, drafts, draft="zeta"))
        assert "the draft zeta" in capsys.readouterr().out
        with pytest.raises(SystemExit, match="no draft other, but tiny, zeta"):
            await asyncio.to_thread(fetch.main, settings(gateway.url, drafts, draft="other"))


async def test_a_gateway_without_drafts_says_what_its_operator_can_do(tmp_path: Path, drafts: Path) -> None:
    async with ScriptedVerifier() as verifier, running_gateway(tmp_path, verifier) as gateway:
        with pytest.raises(SystemExit, match=r"offers no draft .* --browser-drafts"):
            await asyncio.to_thread(fetch.main, settings(gateway.url, drafts))


# Accelerators


class Accelerator(ProviderDevice):
    """ONNX Runtime's CPU under another name; `delay` seconds are added to each run."""

    delay = 0.0

    def new_session(self, graph: bytes, options: Any) -> Any:
        session, delay = ProviderDevice(providers.CPU, "cpu").new_session(graph, options), self.delay

        class Slowed:
            get_inputs, get_outputs = session.get_inputs, session.get_outputs

            def run(self, *arguments: Any) -> Any:
                time.sleep(delay)
                return session.run(*arguments)

        return Slowed()


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> type[Accelerator]:
    found = {
        "directml": [Accelerator(Provider("directml", "DmlExecutionProvider"), "gpu")],
        "cpu": [ProviderDevice(providers.CPU, "cpu")],
    }
    monkeypatch.setattr(providers, "_devices_of", lambda provider: found.get(provider.name, []))
    return Accelerator


async def test_an_accelerator_gets_float16_and_is_taken_unless_the_cpu_is_faster(
    gateway: Gateway,
    drafts: Path,
    accelerator: type[Accelerator],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as equal:
        equal.setattr(OnnxModel, "measure", lambda model: 1.0)
        fetched = await asyncio.to_thread(fetch.fetch_draft, settings(gateway.url, drafts))
    assert fetched.runs == "on directml on gpu in fp16"
    assert {"draft.fp16.onnx", "draft.int8.onnx"} <= files(fetched.folder)
    monkeypatch.setattr(accelerator, "delay", 0.5)
    model = load_model(fetched.folder, "auto", 1)
    assert (model.device.description, model.variant) == ("cpu", "int8")
    assert "directml on gpu is not used: it takes" in caplog.text
    assert load_model(fetched.folder, "directml", 1).variant == "fp16", "it was chosen"


# Hostile ones


class Hostile:
    """Serves a folder as a gateway does, until something of it is changed."""

    def __init__(self, server: ScriptedModelServer, folder: Path) -> None:
        self.server = server
        self.manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text())
        self.offer: dict[str, Any] = {"model": "toy", "name": "tiny", "url": "https://evil.example.com/"}
        for file in folder.iterdir():
            content = file.read_bytes()
            server.answers[f"{OFFERS}/{DraftFile.of(file.name, content).sha256}"] = content
        self.serve()

    def serve(self, content: bytes | None = None) -> None:
        """Offer the manifest, or `content` in its place."""
        content = msgspec.json.encode(self.manifest) if content is None else content
        document = DraftFile.of(MANIFEST_FILE, content)
        self.server.answers[f"{OFFERS}/{document.sha256}"] = content
        self.server.answers[OFFERS] = {"drafts": [{**self.offer, "manifest": msgspec.to_builtins(document)}]}

    def graph_path(self) -> str:
        return f"{OFFERS}/{self.manifest['variants']['int8']['file']['sha256']}"


@pytest.fixture
def hostile(offered: Path) -> Iterator[Hostile]:
    with scripted_model_server() as server:
        yield Hostile(server, offered / "tiny")


def fail(hostile: Hostile, drafts: Path, reason: str) -> None:
    """A fetch ends with this reason in one line, and leaves nothing that an agent would take."""
    with pytest.raises(SystemExit, match=reason) as ended:
        fetch.main(settings(hostile.server.url, drafts))
    assert "\n" not in str(ended.value.code)
    assert find_kept(drafts) == []
    assert not list(drafts.glob("*/.fetching-*"))


def one_offer(manifest: dict[str, Any] | None) -> dict[str, Any]:
    return {"drafts": [{"model": "m", "name": "x", "manifest": manifest}]}


def test_one_that_behaves_is_fetched_from(hostile: Hostile, drafts: Path) -> None:
    fetch.main(settings(hostile.server.url, drafts))
    assert len(find_kept(drafts)) == 1
    assert {headers["Authorization"] for _, headers, _ in hostile.server.requests} == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"not JSON", "something else than expected"),
        (b"[" * 100_000, "something else than expected"),
        ({"drafts": [{"model": 1, "name": "x"}]}, "something else than expected"),
        ({"drafts": [{"model": "m\u001b[31m", "name": "x"}] * 2000}, "something else than expected"),
        (
            {"drafts": [{"model": "m", "name": "x", "manifest": {"name": "../x", "bytes": 9, "sha256": "0" * 64}}]},
            "else",
        ),
        ({"drafts": [{"model": "m", "name": "x", "manifest": {"name": "x", "bytes": 9, "sha256": "../../x"}}]}, "else"),
        (one_offer(None), "to browsers only"),
        (b" " * (1 << 21), "more than the 1048576"),
        (lambda handler, _: send(handler, b"", 302, Location="https://evil.example.com"), "redirects"),
        (lambda handler, _: send(handler, b"", 404), "no such file"),
    ],
)
def test_offers_that_are_none(hostile: Hostile, drafts: Path, answer: Any, reason: str) -> None:
    hostile.server.answers[OFFERS] = answer
    fail(hostile, drafts, reason)
    assert not drafts.exists()


def change(path: str, value: Any) -> Callable[[Hostile], None]:
    def apply(hostile: Hostile) -> None:
        *parents, last = path.split(".")
        place: Any = hostile.manifest
        for name in parents:
            place = place[name]
        place[last] = value
        hostile.serve()

    return apply


@pytest.mark.parametrize(
    ("apply", "reason"),
    [
        (change("format", 2), "format 2"),
        (change("fingerprint", "../../../../../etc"), "fingerprint"),
        (change("fingerprint", ""), "fingerprint"),
        (change("head_ids.name", "../head_ids.bin"), "not that of an exported draft"),
        (change("head_ids.name", "draft.json"), "names a file twice"),
        (change("head_ids.sha256", "/../secret"), "not that of an exported draft"),
        (change("head_ids.sha256", "0" * 64), "no such file"),
        (change("head_ids.bytes", 1 << 33), "no draft needs more"),
        (change("head_ids.bytes", 1_900_000_000_000), "not that of an exported draft"),
        (change("variants.int8.file.bytes", 100), "more than the 100"),
        (change("variants.int8.file.bytes", 1_000_000), "bytes, not the 1000000"),
        (change("columns", 96), "does not hold 96"),
        (change("layers", 900), "differs"),
        (change("kv_heads", 65_536), "differs"),
        (lambda hostile: hostile.serve(b"x" * 70_000), "more than the 65536"),
        (lambda hostile: hostile.serve(b"{}"), "not that of an exported draft"),
    ],
)
def test_manifests_that_lie(hostile: Hostile, drafts: Path, apply: Callable[[Hostile], None], reason: str) -> None:
    apply(hostile)
    fail(hostile, drafts, reason)


def test_a_graph_with_another_checksum(hostile: Hostile, drafts: Path) -> None:
    size = hostile.manifest["variants"]["int8"]["file"]["bytes"]
    hostile.server.answers[hostile.graph_path()] = b"x" * size
    fail(hostile, drafts, "draft.int8.onnx is damaged")
    assert not list(drafts.glob("*/*.onnx")), "it did not get its name"
    hostile.server.answers[hostile.graph_path()] = lambda handler, _: send(
        handler, b"", 307, Location="https://evil.example.com"
    )
    fail(hostile, drafts, "redirects")
    hostile.server.answers[hostile.graph_path()] = b"x" * (size - 1)
    fail(hostile, drafts, f"has {size - 1} bytes, not the {size}")


def test_another_manifest_than_the_one_that_is_offered(hostile: Hostile, drafts: Path) -> None:
    document = hostile.server.answers[OFFERS]["drafts"][0]["manifest"]
    path = f"{OFFERS}/{document['sha256']}"
    hostile.server.answers[path] = hostile.server.answers[path].replace(b"tiny", b"huge")
    fail(hostile, drafts, "draft.json is damaged")
    assert not drafts.exists()


def test_a_full_disk_is_said_before_anything_is_fetched(
    hostile: Hostile, drafts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(drafts.parent.parent)._replace(free=1000)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda folder: usage)
    fail(hostile, drafts, "only 0 MB are free")
    assert hostile.graph_path() not in [path for path, _, _ in hostile.server.requests]


def test_what_a_killed_fetch_left_is_removed_in_time(hostile: Hostile, drafts: Path) -> None:
    fetch.main(settings(hostile.server.url, drafts))
    (folder,) = find_kept(drafts)
    for name, age in ((".fetching-old", 7200.0), (".fetching-new", 0.0)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (time.time() - age, time.time() - age))
    fetch.main(settings(hostile.server.url, drafts))
    assert {name for name in files(folder) if name.startswith(".")} == {".fetching-new"}
