// The agent's worker: loads runtime and draft, stays attached, and tells the page what happens.

import { forgetOthers, loadFile } from "./draft_files.js";
import { Rejected, stayAttached } from "./link.js";
import { DraftingLoop, newStats } from "./loop.js";
import { ModelDrafter } from "./model.js";

/**
 * @typedef {import("./draft_files.js").DraftFile} DraftFile
 * @typedef {{provider: "wasm" | "webgpu", device: string, graph: DraftFile, shape: import("./model.js").Shape}} Choice
 * @typedef {{key: string, name: string, draft: string, fingerprint: string, maxSessions: number, threads: number,
 *   runtime: string, headIds: DraftFile, choices: Choice[]}} Start
 * @typedef {{type: "start", start: Start} | {type: "pause", paused: boolean} | {type: "stop"}} FromPage
 * @typedef {{type: "progress", loaded: number, total: number} | {type: "state", state: string, detail: string} |
 *   {type: "device", device: string} |
 *   {type: "stats", stats: import("./loop.js").Stats} | {type: "failed", reason: string} | {type: "stopped"}} ToPage
 */

const STATS_MS = 500;
/** @type {import("./wire.js").Sampling} */
const GREEDY = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  seed: 0n,
  frequencyPenalty: 0,
  presencePenalty: 0,
  repetitionPenalty: 1,
  logitBias: new Map(),
};

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
    const { choice, newDrafter } = await load(start);
    tell({ type: "device", device: choice.device });
    if (!stopping.signal.aborted) {
      const { name, fingerprint, maxSessions } = start;
      const drafter = `${start.draft} by ${choice.device}`.slice(0, 256);
      const device = `browser ${choice.provider}`;
      await stayAttached(
        {
          key: start.key,
          hello: { name, fingerprint, drafter, maxSessions, device },
          attach(welcome, link) {
            const limits = { vocabSize: welcome.vocabSize, maxSessions: Math.min(maxSessions, welcome.maxSessions) };
            loop = new DraftingLoop(newDrafter(), limits, (drafts) => link.send(drafts), stats, () => !paused && link.ready);
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

/**
 * The first of the choices that works here, and drafters with it. Throws what the last one threw.
 * @param {Start} start
 */
async function load(start) {
  await forgetOthers([start.headIds, ...start.choices.map(({ graph }) => graph)]);
  const ids = new Uint32Array((await loadFile(start.headIds, start.key, () => {})).buffer);
  for (const [i, choice] of start.choices.entries()) {
    try {
      const newDrafter = await loadChoice(start, choice, ids);
      return { choice, newDrafter };
    } catch (error) {
      if (i === start.choices.length - 1) throw error;
    }
  }
  throw new Error("there is nothing to draft with");
}

/**
 * Loads one choice and runs it once: an adapter may lack what a graph needs only when it is run.
 * @param {Start} start
 * @param {Choice} choice
 * @param {Uint32Array} ids
 */
async function loadChoice({ key, runtime, threads }, { provider, graph, shape }, ids) {
  const bytes = await loadFile(graph, key, (loaded, total) => tell({ type: "progress", loaded, total }));
  tell({ type: "state", state: "loading", detail: "" });
  const ort = await import(`${runtime}ort.${provider}.min.mjs`);
  ort.env.wasm.wasmPaths = runtime;
  ort.env.wasm.numThreads = threads;
  const inference = await ort.InferenceSession.create(bytes, { executionProviders: [provider] });
  const newDrafter = () => new ModelDrafter(ort, inference, shape, ids);
  const trial = newDrafter();
  trial.open(1);
  await trial.propose([{ session: 1, context: [0, 1], committed: 2, index: 1, sampling: GREEDY }]);
  return newDrafter;
}
