// The page of a browser that drafts: signs in, starts and stops the agent's worker, and shows what it does.
// The key is kept in sessionStorage and sent in one header. Names from the gateway are inserted as text, never as HTML.

import { Manners } from "./manners.js";

/**
 * @typedef {import("./agent/worker.js").Start} Start
 * @typedef {import("./agent/worker.js").ToPage} ToPage
 * @typedef {import("./agent/loop.js").Stats} Stats
 * @typedef {{file: import("./agent/draft_files.js").DraftFile, kvType: "float32" | "float16"}} Variant
 * @typedef {{model: string, fingerprint: string, name: string, shape: Omit<import("./agent/model.js").Shape, "kvType">,
 *   headIds: import("./agent/draft_files.js").DraftFile, variants: {int8?: Variant, fp16?: Variant}}} Offered
 * @typedef {{drafts: Offered[], runtime: string}} Offers
 */

const KEY = "edgedraft.key";
const MAX_SESSIONS = 4;
const MAX_THREADS = 4;
const STOP_MS = 800; // after which the worker is ended, whatever it does
const RATE_SECONDS = 5;
const RETRY_MS = 5000;
const NO_VALUE = "–";

/** @param {string} name */
const id = (name) => /** @type {HTMLElement} */ (document.getElementById(name));
/** @param {string} name */
const input = (name) => /** @type {HTMLInputElement} */ (id(name));

let key = sessionStorage.getItem(KEY) ?? "";
/** @type {Worker | null} */
let worker = null;
/** @type {Omit<Start, "key"> | null} */
let plan = null;
/** @type {{at: number, committed: number}[]} */
let recent = [];
let state = "";
let device = "";

const manners = new Manners(
  () => ({ background: input("background").checked, metered: input("metered").checked, battery: input("battery").checked }),
  (reason) => {
    worker?.postMessage({ type: "pause", paused: Boolean(reason) });
    id("why").textContent = worker ? reason : "";
  },
);
for (const name of ["background", "metered", "battery"]) input(name).addEventListener("change", () => manners.update());

// A worker's URL is the only string that this page turns into code.
const policy = /** @type {any} */ (window).trustedTypes?.createPolicy("edgedraft-worker", { createScriptURL: () => "/attach/page/agent/worker.js" });

id("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  key = input("key").value.trim();
  void signIn();
});
id("leave").addEventListener("click", () => {
  stop();
  sessionStorage.removeItem(KEY);
  location.reload();
});
id("draft").addEventListener("click", () => (worker ? stop() : start()));

if (key) void signIn();
else show("enter");

/** @param {"enter" | "device"} section */
function show(section) {
  id("enter").hidden = section !== "enter";
  id("device").hidden = section !== "device";
  id("leave").hidden = section !== "device";
  if (section === "enter") input("key").focus();
}

async function signIn() {
  id("error").textContent = "";
  let response;
  try {
    response = await fetch("/attach/drafts", { headers: { authorization: `Bearer ${key}` } });
  } catch {
    return refuse("The gateway cannot be reached.");
  }
  if (response.status === 401) return refuse("The gateway does not know this key.");
  if (response.status === 403) return refuse("This key may not attach devices: it needs the edge scope.");
  if (!response.ok) return refuse(`The gateway answers ${response.status}.`);
  sessionStorage.setItem(KEY, key);
  show("device");
  const offers = await response.json().catch(() => null);
  if (!offers) return refuse("The gateway gives no answer that this page understands.");
  await choose(offers);
  if (!plan) setTimeout(() => key && !plan && void signIn(), RETRY_MS); // a verifier may still connect
}

/** @param {string} reason */
function refuse(reason) {
  show("enter");
  id("error").textContent = reason;
}

/**
 * Chooses the draft, and what runs it.
 * @param {Offers} offers
 */
async function choose({ drafts, runtime }) {
  const problem = unusable(drafts, runtime);
  const draft = drafts.find(({ variants }) => variants.int8);
  if (problem || !draft) {
    id("about").textContent = problem;
    return;
  }
  const threads = self.crossOriginIsolated ? Math.max(1, Math.min(MAX_THREADS, (navigator.hardwareConcurrency || 2) - 1)) : 1;
  const adapter = draft.variants.fp16 && (await graphicsAdapter());
  /** @type {Start["choices"]} */
  const choices = [];
  const add = (/** @type {"wasm" | "webgpu"} */ provider, /** @type {string} */ device, /** @type {Variant} */ { file, kvType }) =>
    choices.push({ provider, device, graph: file, shape: { ...draft.shape, kvType } });
  if (adapter && draft.variants.fp16) add("webgpu", `WebGPU (${adapter})`, draft.variants.fp16);
  if (draft.variants.int8) add("wasm", `WebAssembly, ${threads} ${threads === 1 ? "thread" : "threads"}`, draft.variants.int8);
  const megabytes = (choices[0].graph.bytes / 1e6).toFixed(0);
  id("about").textContent = `${draft.name} for ${draft.model}, by ${choices[0].device}. ${megabytes} MB, fetched once.`;
  const { fingerprint, headIds, name } = draft;
  /** @type {HTMLButtonElement} */ (id("draft")).disabled = false;
  plan = { name: "browser", draft: name, fingerprint, maxSessions: MAX_SESSIONS, threads, runtime, headIds, choices };
}

/**
 * @param {Offered[]} drafts
 * @param {string} runtime
 */
function unusable(drafts, runtime) {
  if (!self.isSecureContext) return "Browsers let a page draft only over https: open this page by its https address.";
  if (!runtime) return "This gateway has no runtime for browsers; its operator can add one with edgedraft browser fetch.";
  if (!drafts.some(({ variants }) => variants.int8)) return "This gateway has no draft model for browsers that fits the models it serves.";
  return "";
}

/** The name of a graphics adapter that calculates in float16, or "". */
async function graphicsAdapter() {
  const adapter = await /** @type {any} */ (navigator).gpu?.requestAdapter().catch(() => null);
  if (!adapter?.features.has("shader-f16") || adapter.info?.isFallbackAdapter || adapter.isFallbackAdapter) return "";
  return adapter.info?.description || adapter.info?.vendor || "graphics adapter";
}

function start() {
  if (!plan) return;
  id("problem").textContent = "";
  recent = [];
  const started = new Worker(policy ? policy.createScriptURL("") : "/attach/page/agent/worker.js", { type: "module" });
  worker = started;
  // A worker that was stopped goes on for a moment: what it says is no longer of interest.
  started.onmessage = ({ data }) => worker === started && heard(data);
  started.onerror = (event) => worker === started && ended(`The agent failed: ${event.message ?? "it cannot be loaded"}`);
  started.postMessage({ type: "pause", paused: Boolean(manners.reason) });
  started.postMessage({ type: "start", start: { ...plan, key } });
  button(true);
  setState("starting", "");
  manners.setDrafting(true);
}

function stop() {
  const stopped = worker;
  if (!stopped) return;
  stopped.postMessage({ type: "stop" });
  setTimeout(() => stopped.terminate(), STOP_MS);
  worker = null;
  button(false);
  setState("", "");
  id("progress").hidden = true;
  manners.setDrafting(false);
}

/** @param {boolean} drafting */
function button(drafting) {
  id("draft").textContent = drafting ? "Stop" : "Draft";
  id("draft").setAttribute("aria-pressed", String(drafting));
}

/** @param {ToPage} message */
function heard(message) {
  if (message.type === "progress") {
    id("progress").hidden = message.loaded >= message.total;
    /** @type {HTMLProgressElement} */ (id("progress")).value = message.loaded / message.total;
  } else if (message.type === "state") setState(message.state, message.detail);
  else if (message.type === "device") device = message.device;
  else if (message.type === "stats") showStats(message.stats);
  else if (message.type === "failed") ended(message.reason);
  else ended("");
}

/** @param {string} reason */
function ended(reason) {
  stop();
  id("problem").textContent = reason;
}

/**
 * @param {string} now
 * @param {string} detail
 */
function setState(now, detail) {
  state = now;
  /** @type {Record<string, string>} */
  const texts = {
    starting: "Fetching the draft model",
    loading: "Loading the draft model",
    attached: `Attached, drafting for ${detail}`,
    moving: "Moving to another gateway",
    lost: `No link: ${detail}; trying again`,
    paused: "Not attached while paused",
  };
  id("state").textContent = texts[now] ?? "";
  id("state").classList.toggle("stale", now === "lost");
}

/** @param {Stats} stats */
function showStats(stats) {
  if (state !== "attached") return;
  const now = performance.now() / 1000;
  recent = recent.filter(({ at }) => now - at < RATE_SECONDS);
  const oldest = recent[0] ?? { at: now, committed: stats.committed };
  recent.push({ at: now, committed: stats.committed });
  const rate = now > oldest.at ? (stats.committed - oldest.committed) / (now - oldest.at) : 0;
  figure("accepted", stats.committed ? `${Math.round((100 * stats.accepted) / stats.committed)}%` : NO_VALUE, "of the text came from here");
  figure("rate", rate.toFixed(1), stats.sessions === 1 ? "in one chat now" : `in ${stats.sessions} chats now`);
  figure("saved", String(stats.accepted), `of ${stats.committed} tokens`);
  const forward = stats.forwards ? `${((1000 * stats.forwardSeconds) / stats.forwards).toFixed(0)} ms` : NO_VALUE;
  figure("forward", forward, device);
}

/**
 * @param {string} name
 * @param {string} value
 * @param {string} note
 */
function figure(name, value, note) {
  id(name).textContent = value;
  id(`${name}-note`).textContent = note;
}
