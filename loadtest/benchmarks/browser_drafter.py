"""The browser agent's drafter in a headless Chromium, as one of the runtimes that `bench draft` compares.

The page's own modules run in a page of this process's making: every file comes from disk, none from a network.
Each call crosses the browser's debugging protocol, which adds one or two milliseconds to a forward.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edge_agent.drafters.interface import DraftRequest, Proposal
from edgedraft.draft_manifest import read_manifest
from edgedraft.local.browser_runtime import RUNTIME_FOLDER, browser_folder, has_runtime
from gateway.api.attach.browser_drafts import describe_shape

ORIGIN = "http://127.0.0.1"  # where browsers allow what they allow only over https elsewhere
ISOLATED = {"cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp"}
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}

LOAD = """async ({ shape, threads }) => {
    const { ModelDrafter } = await import("/page/agent/model.js");
    const fetched = async (name) => (await fetch(`/draft/${name}`)).arrayBuffer();
    const ids = new Uint32Array(await fetched("head_ids"));
    const ort = await import("/runtime/ort.wasm.min.mjs");
    ort.env.wasm.wasmPaths = "/runtime/";
    ort.env.wasm.numThreads = threads;
    const graph = new Uint8Array(await fetched("graph"));
    const inference = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
    globalThis.drafter = new ModelDrafter(ort, inference, shape, ids, shape.vocabSize, false);
}"""
PROPOSE = """(requests) => globalThis.drafter.propose(requests.map(({ seed, sampling, ...request }) =>
    ({ ...request, sampling: { ...sampling, seed: BigInt(seed), logitBias: new Map() } })))"""


class BrowserDrafter:
    """A Drafter whose model runs in a page. Without logit_bias."""

    def __init__(self, page: Any) -> None:
        """`page` is playwright's, with the drafter loaded."""
        self._page = page

    def open(self, session: int) -> None:
        self._page.evaluate("(session) => globalThis.drafter.open(session)", session)

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._page.evaluate("(session) => globalThis.drafter.close(session)", session)

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        found = self._page.evaluate(PROPOSE, [_described(request) for request in requests])
        return [
            Proposal(tuple(one["tokens"]), tuple(one["parents"]), tuple(one["probabilities"]), one["complete"])
            for one in found
        ]


@contextmanager
def browser_drafters(folder: Path, threads: int) -> Iterator[dict[str, BrowserDrafter]]:
    """The drafter of an exported draft in Chromium, by name; none without Chromium or onnxruntime-web."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None or find_spec("playwright") is None or not has_runtime(browser_folder()):
        yield {}
        return
    from playwright.sync_api import sync_playwright

    manifest = read_manifest(folder)
    variant = manifest.variants["int8"]
    named = {"head_ids": folder / manifest.head_ids.name, "graph": folder / variant.file.name}
    page_files = Path(str(files("gateway.api.attach").joinpath("page")))
    folders = {"page": page_files, "runtime": browser_folder() / RUNTIME_FOLDER}

    def answer(route: Any) -> None:
        kind, _, name = route.request.url.removeprefix(f"{ORIGIN}/").partition("/")
        path = named[name] if kind == "draft" else folders[kind] / name if kind else None
        body = path.read_bytes() if path else b"<!doctype html>"
        route.fulfill(body=body, headers=ISOLATED, content_type=TYPES.get(path.suffix, "") if path else "text/html")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.route("**/*", answer)
        page.goto(f"{ORIGIN}/")
        shape = describe_shape(manifest) | {"kvType": variant.kv_dtype}
        page.evaluate(LOAD, {"shape": shape, "threads": threads})
        yield {f"Chromium {browser.version.partition('.')[0]}, WebAssembly, int8": BrowserDrafter(page)}
        browser.close()


def _described(request: DraftRequest) -> dict[str, Any]:
    sampling = request.sampling
    return {
        "session": request.session,
        "context": request.context,
        "committed": request.num_committed,
        "index": request.output_index,
        "seed": str(sampling.seed),
        "sampling": {
            "temperature": sampling.temperature,
            "topK": sampling.top_k,
            "topP": sampling.top_p,
            "minP": sampling.min_p,
            "frequencyPenalty": sampling.frequency_penalty,
            "presencePenalty": sampling.presence_penalty,
            "repetitionPenalty": sampling.repetition_penalty,
        },
    }
