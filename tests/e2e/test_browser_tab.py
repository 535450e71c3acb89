"""A browser tab as an agent, in real Chromium: it drafts what Python's agent drafts, and its end costs no text."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import torch
from openai import OpenAI
from playwright.sync_api import Browser, Page, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from edge_agent.drafters.interface import DraftRequest
from edge_agent.drafters.loading import load_drafters
from edge_agent.drafters.pytorch.draft_model import shipped_draft
from edge_agent.onnx.export import export_draft
from edge_agent.settings import AgentSettings
from edgedraft.draft_manifest import RUNTIME_FOLDER
from edgedraft.local.browser_runtime import browser_folder, fetch_runtime
from edgedraft.local.demo_model import DEMO_MODEL
from edgedraft.wire import Sampling
from tests.conftest import THOROUGH
from tests.e2e.conftest import CASES, KEY, Answer, Service
from tests.support.waiting import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FEW = [CASES[0], CASES[7], CASES[-5], CASES[-1]]  # two greedy, two at temperature 0.8
LONGER = 64  # tokens
POSITIONS = 16  # of each answer

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="no npm here, which fetches onnxruntime-web"),
]


@pytest.fixture(scope="module")
def offered(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A second gateway of the same verifier, which offers the shipped draft to browsers."""
    drafts, folder = tmp_path_factory.mktemp("drafts"), tmp_path_factory.mktemp("tab")
    fetch_runtime(browser_folder())
    (drafts / RUNTIME_FOLDER).symlink_to(browser_folder() / RUNTIME_FOLDER)
    export_draft(str(shipped_draft(DEMO_MODEL)), drafts / "shipped")
    database = f"sqlite+aiosqlite:///{folder}/gateway.db"
    flags = ("--port", "0", "--database", database, "--browser-drafts", str(drafts))
    gateway = service.stack.launch("gateway", "--verifier", service.verifier.address, *flags)
    service.stack.wait_ready(gateway)
    client = OpenAI(base_url=f"{gateway.address}/v1", api_key=KEY, max_retries=0, timeout=300)
    wait_until(lambda: client.models.list().data)
    yield dataclasses.replace(service, client=client)
    gateway.stop()
    service.stack.processes.remove(gateway)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a fresh profile, in which nothing may go wrong."""
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.set_default_timeout(120_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    yield page
    context.close()
    assert not wrong


def address(service: Service) -> str:
    return str(service.client.base_url).removesuffix("/v1/")


def sign_in(page: Page, service: Service) -> None:
    page.goto(f"{address(service)}/attach")
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#about")).to_contain_text("WebAssembly", timeout=120_000)


def attach(page: Page, service: Service) -> None:
    page.get_by_role("button", name="Draft").click()
    expect(page.locator("#state")).to_contain_text("Attached", timeout=300_000)
    assert page.locator("#problem").inner_text() == ""
    (agent,) = dashboard(service)["agents"]
    assert agent["device"] == "browser wasm"


def agents(service: Service) -> int:
    return dashboard(service)["agents_attached"]


def dashboard(service: Service) -> dict[str, Any]:
    url, headers = f"{address(service)}/dashboard/data", {"authorization": f"Bearer {KEY}"}
    return httpx.get(url, headers=headers, trust_env=False, timeout=60).json()


def test_the_tab_drafts_for_its_owners_chats(offered: Service, page: Page) -> None:
    sign_in(page, offered)
    assert page.evaluate("crossOriginIsolated"), "WebAssembly may have threads"
    attach(page, offered)
    answers = [offered.ask(case) for case in FEW]
    assert [answer.text for answer in answers] == [offered.ask(case, edge=False).text for case in FEW]
    assert {answer.mode for answer in answers} <= {"edge", "mixed"}
    assert sum(answer.accepted for answer in answers) > len(FEW)
    expect(page.locator("#saved")).to_have_text(str(sum(answer.accepted for answer in answers)), timeout=60_000)
    page.get_by_role("button", name="Stop").click()
    wait_until(lambda: agents(offered) == 0)
    expect(page.get_by_role("button", name="Draft")).to_be_visible()


def test_an_adapter_that_cannot_run_the_draft_is_passed_over(offered: Service, page: Page) -> None:
    """The page is told of a WebGPU adapter with float16, which this machine has not."""
    page.add_init_script(
        "const adapter = { features: new Set(['shader-f16']), info: { description: 'no such' } };"
        "Object.defineProperty(navigator, 'gpu', { value: { requestAdapter: async () => adapter } });"
    )
    page.goto(f"{address(offered)}/attach")
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#about")).to_contain_text("WebGPU (no such)")
    attach(page, offered)
    expect(page.locator("#forward-note")).to_contain_text("WebAssembly")


@pytest.mark.parametrize("how", ["closed", "frozen", "hidden", *(["reloaded", "crashed"] if THOROUGH else [])])
def test_a_tab_lost_in_mid_stream_changes_nothing(offered: Service, browser: Browser, how: str) -> None:
    case = FEW[0]
    expected = offered.ask(case, edge=False, tokens=LONGER)
    page = browser.new_context().new_page()
    sign_in(page, offered)
    attach(page, offered)
    started, got = threading.Event(), list[Answer]()
    client = threading.Thread(target=lambda: got.append(offered.ask(case, tokens=LONGER, started=started)))
    client.start()
    while not started.is_set() and client.is_alive():
        page.wait_for_timeout(20)  # the browser's events are handled meanwhile
    lose(page, how)
    while client.is_alive():
        client.join(0.05)
        if how not in {"closed", "crashed"}:
            page.wait_for_timeout(20)
    assert got[0].text == expected.text
    assert got[0].completion_tokens == expected.completion_tokens
    if how == "hidden":
        expect(page.locator("#why")).to_contain_text("in the background")
        wait_until(lambda: agents(offered) == 0)  # so that other devices of the owner get its chats
        assert offered.ask(case).mode == "datacenter"
        set_hidden(page, False)
        expect(page.locator("#state")).to_contain_text("Attached", timeout=60_000)
    page.context.close()
    wait_until(lambda: agents(offered) == 0)


def lose(page: Page, how: str) -> None:
    match how:
        case "closed":
            page.close()
        case "reloaded":
            page.reload()
        case "frozen":
            page.context.new_cdp_session(page).send("Page.setWebLifecycleState", {"state": "frozen"})
        case "crashed":
            with suppress(PlaywrightError):
                page.goto("chrome://crash")
        case _:
            set_hidden(page, True)


def set_hidden(page: Page, hidden: bool) -> None:
    page.evaluate(
        "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )


PROPOSE = """async ({ offers, key, requests }) => {
    const [{ ModelDrafter }, { loadFile }] = await Promise.all(
        ["model.js", "draft_files.js"].map((name) => import(`/attach/page/agent/${name}`)));
    const [draft] = offers.drafts;
    const variant = draft.variants.int8;
    const ids = await loadFile(draft.headIds, key, () => {});
    const bytes = await loadFile(variant.file, key, () => {});
    const ort = await import(`${offers.runtime}ort.wasm.min.mjs`);
    ort.env.wasm.wasmPaths = offers.runtime;
    ort.env.wasm.numThreads = 1;
    const inference = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    const shape = { ...draft.shape, kvType: variant.kvType };
    const drafter = new ModelDrafter(ort, inference, shape, new Uint32Array(ids.buffer), shape.vocabSize);
    const found = [];
    let session = 0;
    for (const { context, committed, index, temperature } of requests) {
        if (index === 0) drafter.open(++session);
        const sampling = { temperature, topK: 0, topP: 1, minP: 0, seed: 7n, frequencyPenalty: 0, presencePenalty: 0,
            repetitionPenalty: 1, logitBias: new Map() };
        const request = { session, context, committed, index, sampling };
        let [proposal] = await drafter.propose([request]);
        while (!proposal.complete) [proposal] = await drafter.propose([request]);
        found.push([proposal.tokens[0], proposal.probabilities[0]]);
    }
    return found;
}"""


def test_the_tab_proposes_what_pythons_agent_proposes(offered: Service, page: Page) -> None:
    """The first proposal at each position of some answers, by model and prompt lookup, with the noise of sampling."""
    sign_in(page, offered)
    headers = {"authorization": f"Bearer {KEY}"}
    offers = httpx.get(f"{address(offered)}/attach/drafts", headers=headers, trust_env=False).json()
    requests = list(positions(offered))
    drafter = load_drafters(
        AgentSettings.model_validate({"threads": 1, "dtype": "float32", "past_outputs": False})
    ).new_drafter(49152)
    expected: list[int] = []
    for number, (context, prompt, index, temperature) in enumerate(requests):
        if index == 0:
            drafter.open(number - index)
        request = DraftRequest(number - index, context, len(context), index, Sampling(temperature, seed=7))
        with torch.inference_mode():
            (proposal,) = drafter.propose([request])
            while not proposal.complete:
                (proposal,) = drafter.propose([request])
        expected.append(proposal.tokens[0])
        assert prompt + index == len(context)
    asked = [
        {"context": context, "committed": len(context), "index": index, "temperature": temperature}
        for context, _, index, temperature in requests
    ]
    found = page.evaluate(PROPOSE, {"offers": offers, "key": KEY, "requests": asked})
    same = sum(token == own for (token, _), own in zip(found, expected, strict=True))
    assert same >= 0.95 * len(expected), f"{same} of {len(expected)}"


def positions(service: Service) -> Iterator[tuple[list[int], int, int, float]]:
    """Context, length of the prompt, output index and temperature of the first tokens of two answers."""
    for case, temperature in ((FEW[0], 0.0), (FEW[-1], 0.8)):
        answer = service.ask(case, edge=False)
        http = {"headers": {"authorization": f"Bearer {KEY}"}, "trust_env": False, "timeout": 60}
        messages: list[dict[str, Any]] = [{"role": "user", "content": case.prompt}]
        prompt = httpx.post(f"{address(service)}/tokenize", json={"messages": messages}, **http).json()["tokens"]
        output = httpx.post(f"{address(service)}/tokenize", json={"prompt": answer.text}, **http).json()["tokens"]
        for index in range(min(POSITIONS, len(output))):
            yield prompt + output[:index], len(prompt), index, temperature
