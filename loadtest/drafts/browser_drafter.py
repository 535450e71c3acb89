"""The browser agent's drafter in a headless Chromium, as one of the runtimes that `bench draft` compares.

The page's own modules run in a page of this process's making, whose files it serves on the loopback address.
Each call crosses the browser's debugging protocol, which adds one or two milliseconds to a forward.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edge_agent.drafters.interface import DraftRequest, Proposal
from edgedraft.draft_manifest import RUNTIME_FOLDER, read_manifest
from edgedraft.local.browser_runtime import browser_folder, has_runtime
from gateway.api.attach.offered_drafts import describe_shape

ISOLATED = {"cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp"}
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}

LOAD = """async ({ shape, threads, ids, graph }) => {
    const { ModelDrafter } = await import("/page/agent/model.js");
    const fetched = async (name) => (await fetch(`/draft/${name}`)).arrayBuffer();
    const headIds = new Uint32Array(await fetched(ids));
    const ort = await import("/runtime/ort.wasm.min.mjs");
    ort.env.wasm.wasmPaths = "/runtime/";
    ort.env.wasm.numThreads = threads;
    const bytes = new Uint8Array(await fetched(graph));
    const inference = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    globalThis.drafter = new ModelDrafter(ort, inference, shape, headIds, shape.vocabSize, false);
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
    page_files = Path(str(files("gateway.api.attach").joinpath("page")))
    folders = {"page": page_files, "runtime": browser_folder() / RUNTIME_FOLDER, "draft": folder}
    shape = describe_shape(manifest) | {"kvType": variant.kv_dtype}
    described = {"shape": shape, "threads": threads, "ids": manifest.head_ids.name, "graph": variant.file.name}
    with _serving(folders) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(url)
        page.evaluate(LOAD, described)
        yield {f"Chromium {browser.version.partition('.')[0]}, WebAssembly, int8": BrowserDrafter(page)}
        browser.close()


@contextmanager
def _serving(folders: Mapping[str, Path]) -> Iterator[str]:
    """The URL of an empty page; its server has the files of each folder below the folder's name."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, _, name = self.path.removeprefix("/").partition("/")
            path = folders[kind] / name if name else None
            body = path.read_bytes() if path else b"<!doctype html>"
            self.send_response(200)
            for header, value in ISOLATED.items():
                self.send_header(header, value)
            self.send_header(
                "content-type", TYPES.get(path.suffix, "application/octet-stream") if path else "text/html"
            )
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


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
