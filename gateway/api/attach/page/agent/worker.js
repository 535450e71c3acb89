// The agent's worker: loads runtime and draft, stays attached, and tells the page what happens.

import { FetchFailed, forgetOthers, loadFile } from "./draft_files.js";
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
const DETACH_MS = 5000; // of a pause
const MAX_TRIES = 4; // of a file
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
/** Of the attachment, which ends when the worker stops or pauses for long. @type {AbortController | null} */
let attached = null;
let paused = false;
let pauseTimer = 0;
let resume = () => {};
/** @type {DraftingLoop | null} */
let loop = null;

/** @param {ToPage} message */
const tell = (message) => self.postMessage(message);

self.onmessage = (/** @type {MessageEvent<FromPage>} */ { data }) => {
  if (data.type === "start") void run(data.start);
  else if (data.type === "pause") pause(data.paused);
  else {
    stopping.abort();
    attached?.abort();
    resume();
  }
};

/** @param {boolean} now */
function pause(now) {
  paused = now;
  clearTimeout(pauseTimer);
  if (paused) pauseTimer = self.setTimeout(() => attached?.abort(), DETACH_MS);
  else resume();
  loop?.wake();
}

/** Until drafting may go on, or ends. */
async function unpaused() {
  if (!paused || stopping.signal.aborted) return;
  tell({ type: "state", state: "paused", detail: "" });
  await new Promise((resolve) => {
    resume = () => resolve(undefined);
  });
}

/**
 * Drafts with the first of the choices that works here; with the next one when it no longer does.
 * @param {Start} start
 */
async function run(start) {
  const stats = newStats();
  const timer = setInterval(() => tell({ type: "stats", stats }), STATS_MS);
  try {
    await unpaused();
    await forgetOthers([start.headIds, ...start.choices.map(({ graph }) => graph)]);
    const ids = new Uint32Array((await fetched(start.headIds, start.key)).buffer);
    for (const [i, choice] of start.choices.entries()) {
      try {
        const newDrafter = await loadChoice(start, choice, ids);
        tell({ type: "device", device: choice.device });
        await draft(start, choice, newDrafter, stats);
        break;
      } catch (error) {
        if (error instanceof Rejected || i === start.choices.length - 1) throw error;
      }
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
 * Stays attached until the worker stops, but for long pauses, in which other devices of the owner get its chats.
 * @param {Start} start
 * @param {Choice} choice
 * @param {(vocabSize: number) => ModelDrafter} newDrafter
 * @param {import("./loop.js").Stats} stats
 */
async function draft(start, choice, newDrafter, stats) {
  const { key, name, fingerprint, maxSessions } = start;
  const drafter = `${start.draft} by ${choice.device}`.slice(0, 256);
  /** @type {import("./link.js").Agent} */
  const agent = {
    key,
    hello: { name, fingerprint, drafter, maxSessions, device: `browser ${choice.provider}` },
    attach({ vocabSize, maxSessions: most }, link) {
      const limits = { vocabSize, maxSessions: Math.min(maxSessions, most) };
      const send = (/** @type {import("./wire.js").Draft[]} */ drafts) => link.send(drafts);
      loop = new DraftingLoop(newDrafter(vocabSize), limits, send, stats, () => !paused && link.ready);
      return loop;
    },
    onState: (state, detail) => tell({ type: "state", state, detail }),
  };
  for (await unpaused(); !stopping.signal.aborted; await unpaused()) {
    attached = new AbortController();
    await stayAttached(agent, attached.signal);
  }
}

/**
 * The bytes of a file; what may be better soon is tried again.
 * @param {DraftFile} file
 * @param {string} key
 */
async function fetched(file, key) {
  for (let tries = 0; ; tries++) {
    try {
      return await loadFile(file, key, (loaded, total) => tell({ type: "progress", loaded, total }));
    } catch (error) {
      if (!(error instanceof FetchFailed) || tries === MAX_TRIES || stopping.signal.aborted) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * 2 ** tries));
    }
  }
}

/**
 * Loads one choice and runs it once: an adapter may lack what a graph needs only when it is run.
 * @param {Start} start
 * @param {Choice} choice
 * @param {Uint32Array} ids
 */
async function loadChoice({ key, runtime, threads }, { provider, graph, shape }, ids) {
  await unpaused();
  const bytes = await fetched(graph, key);
  tell({ type: "state", state: "loading", detail: "" });
  const ort = await import(`${runtime}ort.${provider}.min.mjs`);
  ort.env.wasm.wasmPaths = runtime;
  ort.env.wasm.numThreads = threads;
  const inference = await ort.InferenceSession.create(bytes, { executionProviders: [provider] });
  const newDrafter = (/** @type {number} */ vocabSize) => new ModelDrafter(ort, inference, shape, ids, vocabSize);
  try {
    const trial = newDrafter(shape.vocabSize);
    trial.open(1);
    await trial.propose([{ session: 1, context: [0, 1], committed: 2, index: 1, sampling: GREEDY }]);
  } catch (error) {
    await inference.release();
    throw error;
  }
  return newDrafter;
}
