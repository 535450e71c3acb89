// The agent's worker: loads runtime and draft, stays attached, and tells the page what happens.

import { forgetOthers, loadFile } from "./draft_files.js";
import { Rejected, stayAttached } from "./link.js";
import { DraftingLoop, newStats } from "./loop.js";
import { ModelDrafter } from "./model.js";

/**
 * @typedef {import("./draft_files.js").DraftFile} DraftFile
 * @typedef {{key: string, name: string, drafter: string, fingerprint: string, maxSessions: number, threads: number,
 *   runtime: string, provider: "wasm" | "webgpu", shape: import("./model.js").Shape,
 *   graph: DraftFile, headIds: DraftFile}} Start
 * @typedef {{type: "start", start: Start} | {type: "pause", paused: boolean} | {type: "stop"}} FromPage
 * @typedef {{type: "progress", loaded: number, total: number} | {type: "state", state: string, detail: string} |
 *   {type: "stats", stats: import("./loop.js").Stats} | {type: "failed", reason: string} | {type: "stopped"}} ToPage
 */

const STATS_MS = 500;

const stopping = new AbortController();
let paused = false;
/** @type {DraftingLoop | null} */
let loop = null;

/** @param {ToPage} message */
const tell = (message) => self.postMessage(message);

self.onmessage = (/** @type {MessageEvent<FromPage>} */ { data }) => {
  if (data.type === "start") void run(data.start);
  else if (data.type === "stop") stopping.abort();
  else {
    paused = data.paused;
    loop?.wake();
  }
};

/** @param {Start} start */
async function run(start) {
  const stats = newStats();
  const timer = setInterval(() => tell({ type: "stats", stats }), STATS_MS);
  try {
    const { ort, inference, headIds } = await load(start);
    if (!stopping.signal.aborted) {
      const { name, fingerprint, drafter, maxSessions } = start;
      await stayAttached(
        {
          key: start.key,
          hello: { name, fingerprint, drafter, maxSessions },
          attach(welcome, link) {
            const limits = { vocabSize: welcome.vocabSize, maxSessions: Math.min(maxSessions, welcome.maxSessions) };
            const model = new ModelDrafter(ort, inference, start.shape, headIds);
            loop = new DraftingLoop(model, limits, (drafts) => link.send(drafts), stats, () => !paused && link.ready);
            return loop;
          },
          onState: (state, detail) => tell({ type: "state", state, detail }),
        },
        stopping.signal,
      );
    }
    tell({ type: "stopped" });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    tell({ type: "failed", reason: error instanceof Rejected ? reason : `Drafting ended: ${reason}` });
  } finally {
    clearInterval(timer);
  }
}

/** @param {Start} start */
async function load({ key, runtime, provider, threads, graph, headIds }) {
  const total = graph.bytes + headIds.bytes;
  await forgetOthers([graph, headIds]);
  const ids = await loadFile(headIds, key, (loaded) => tell({ type: "progress", loaded, total }));
  const bytes = await loadFile(graph, key, (loaded) => tell({ type: "progress", loaded: headIds.bytes + loaded, total }));
  tell({ type: "state", state: "loading", detail: "" });
  const ort = await import(`${runtime}ort.${provider}.min.mjs`);
  ort.env.wasm.wasmPaths = runtime;
  ort.env.wasm.numThreads = threads;
  const inference = await ort.InferenceSession.create(bytes, { executionProviders: [provider] });
  return { ort, inference, headIds: new Uint32Array(ids.buffer) };
}
