// The draft model as a drafter: one run of the exported graph per session, with its keys and values in JavaScript's memory.
//
// The graph's contract is in edge_agent/onnx/contract.py. Long contexts are computed in chunks whose size keeps a run short.

import { INCOMPLETE, NO_PROPOSAL, merge } from "./proposal.js";
import { NgramIndex } from "./prompt_lookup.js";
import { Sampler } from "./sampler.js";
import { SessionCache } from "./session_cache.js";

/**
 * @typedef {import("./proposal.js").DraftRequest} DraftRequest
 * @typedef {import("./proposal.js").Proposal} Proposal
 * @typedef {import("./session_cache.js").Row} Row
 * @typedef {{columns: number, layers: number, kvHeads: number, headDim: number, contextLength: number, vocabSize: number,
 *   kvType: "float32" | "float16"}} Shape
 * @typedef {Float32Array | Uint16Array} Numbers
 * @typedef {{cache: SessionCache, keys: Numbers[], values: Numbers[], ngrams: NgramIndex}} Session
 */

const MASKED = -30000;
const MAX_CONTEXT = 2048; // tokens; longer texts are drafted by prompt lookup alone
const MAX_SLOTS = 4096; // of one session
const MIN_ROWS = 16;
const MAX_ROWS = 512; // bounds of the row limit of one run
const TARGET_RUN_SECONDS = 0.06; // of a run at its row limit

export class ModelDrafter {
  /** @type {Map<number, Session>} */
  #sessions = new Map();
  #maxRows = 4 * MIN_ROWS;

  /**
   * @param {any} ort onnxruntime-web
   * @param {any} inference its InferenceSession
   * @param {Shape} shape
   * @param {Uint32Array} headIds the token of each column of the logits, ascending
   * @param {number} vocabSize the target's; tokens from there on are not proposed
   * @param {boolean} lookup whether to propose by prompt lookup too
   */
  constructor(ort, inference, shape, headIds, vocabSize, lookup = true) {
    this.ort = ort;
    this.inference = inference;
    this.shape = shape;
    this.lookup = lookup;
    if (headIds.length !== shape.columns) throw new Error("the draft model's tokens are not those of its columns");
    const known = headIds.findIndex((token) => token >= vocabSize);
    this.sampler = new Sampler(known < 0 ? headIds : headIds.subarray(0, known));
    this.mayBeUnknown = vocabSize > shape.vocabSize;
    // Where a browser has Float16Array, onnxruntime-web wants it for float16 tensors.
    const Half = /** @type {any} */ (globalThis).Float16Array ?? Uint16Array;
    this.Numbers = shape.kvType === "float16" ? Half : Float32Array;
  }

  /** @param {number} session */
  open(session) {
    const none = () => Array.from({ length: this.shape.layers }, () => new this.Numbers(0));
    this.#sessions.set(session, { cache: new SessionCache(), keys: none(), values: none(), ngrams: new NgramIndex() });
  }

  /** @param {number} session */
  close(session) {
    this.#sessions.delete(session);
  }

  /**
   * @param {DraftRequest[]} requests
   * @returns {Promise<Proposal[]>} one per request, in order
   */
  async propose(requests) {
    /** @type {Map<number, number[]>} */
    const bySession = new Map();
    requests.forEach(({ session }, i) => bySession.set(session, [...(bySession.get(session) ?? []), i]));
    /** @type {Proposal[]} */
    const proposals = requests.map(() => NO_PROPOSAL);
    for (const [number, indices] of bySession) {
      const session = this.#sessions.get(number);
      if (!session) continue;
      const copied = indices.map((i) => (this.lookup ? session.ngrams.propose(requests[i]) : NO_PROPOSAL));
      const modelled = await this.#compute(session, indices.map((i) => requests[i]));
      indices.forEach((i, n) => (proposals[i] = merge([copied[n], modelled[n]])));
    }
    return proposals;
  }

  /**
   * The model's proposals for requests of one session.
   * @param {Session} session
   * @param {DraftRequest[]} requests
   */
  async #compute(session, requests) {
    const { cache } = session;
    const longest = Math.min(MAX_CONTEXT, this.shape.contextLength);
    const unknown = (/** @type {number} */ token) => this.mayBeUnknown && token >= this.shape.vocabSize;
    const proposals = requests.map(({ context }) =>
      context.length && context.length <= longest && !context.some(unknown) ? INCOMPLETE : NO_PROPOSAL,
    );
    if (!proposals.includes(INCOMPLETE)) return proposals;
    cache.follow(requests[0].context, requests[0].committed);
    if (cache.used + this.#maxRows > MAX_SLOTS) cache.dropDrafts();
    /** @type {Map<number, Row>} */
    const completed = new Map();
    let left = this.#maxRows;
    requests.forEach(({ context }, i) => {
      if (proposals[i] !== INCOMPLETE || left <= 0) return;
      const before = cache.scheduled.length;
      const last = cache.schedule(context, left);
      left -= cache.scheduled.length - before;
      if (last) completed.set(i, last);
    });
    const start = performance.now();
    const rows = cache.scheduled.length;
    const logits = await this.#run(session, [...completed.values()]);
    this.#adaptRows(rows, (performance.now() - start) / 1000);
    const { columns } = this.shape;
    [...completed.keys()].forEach((i, n) => {
      const known = logits.slice(n * columns, n * columns + this.sampler.ids.length);
      proposals[i] = this.sampler.propose(known, requests[i]);
    });
    return proposals;
  }

  /**
   * Runs the scheduled rows; returns the logits [wanted or 1, columns] of the wanted ones.
   * @param {Session} session
   * @param {Row[]} wanted
   * @returns {Promise<Float32Array>}
   */
  async #run(session, wanted) {
    const { cache } = session;
    const { Tensor } = this.ort;
    const { layers, kvHeads, headDim, kvType } = this.shape;
    const rows = cache.scheduled;
    this.#reserve(session, rows.length);
    const past = cache.capacity;
    const mask = new Float32Array(rows.length * (past + rows.length)).fill(MASKED);
    rows.forEach((row, r) => {
      const start = r * (past + rows.length);
      mask[start + past + r] = 0;
      for (let up = row.parent; up && up.depth; up = up.parent) mask[start + (up.run < 0 || up.slot >= 0 ? up.slot : past + up.run)] = 0;
    });
    const indices = wanted.length ? wanted.map((row) => row.run) : [0];
    /** @type {Record<string, any>} */
    const feeds = {
      tokens: new Tensor("int64", BigInt64Array.from(rows, (row) => BigInt(row.token)), [rows.length]),
      positions: new Tensor("int64", BigInt64Array.from(rows, (row) => BigInt(row.depth - 1)), [rows.length]),
      mask: new Tensor("float32", mask, [rows.length, past + rows.length]),
      logit_rows: new Tensor("int64", BigInt64Array.from(indices, BigInt), [indices.length]),
    };
    for (let layer = 0; layer < layers; layer++) {
      feeds[`past_key.${layer}`] = new Tensor(kvType, session.keys[layer], [kvHeads, past, headDim]);
      feeds[`past_value.${layer}`] = new Tensor(kvType, session.values[layer], [kvHeads, past, headDim]);
    }
    let results;
    try {
      results = await this.inference.run(feeds);
    } catch (error) {
      cache.abandon();
      throw error;
    }
    const slots = cache.finish();
    for (let layer = 0; layer < layers; layer++) {
      this.#scatter(results[`key.${layer}`].data, session.keys[layer], slots, past);
      this.#scatter(results[`value.${layer}`].data, session.values[layer], slots, past);
    }
    return results.logits.data;
  }

  /**
   * Copies new rows [kvHeads, rows, headDim] to their slots in [kvHeads, past, headDim].
   * @param {Numbers} from
   * @param {Numbers} to
   * @param {number[]} slots
   * @param {number} past
   */
  #scatter(from, to, slots, past) {
    const { kvHeads, headDim } = this.shape;
    for (let head = 0; head < kvHeads; head++) {
      slots.forEach((slot, r) => {
        if (slot < 0) return;
        const source = (head * slots.length + r) * headDim;
        to.set(from.subarray(source, source + headDim), (head * past + slot) * headDim);
      });
    }
  }

  /**
   * Makes room for so many more rows.
   * @param {Session} session
   * @param {number} rows
   */
  #reserve(session, rows) {
    const { cache } = session;
    const before = cache.capacity;
    const capacity = cache.capacityFor(rows);
    if (capacity === before) return;
    const { kvHeads, headDim } = this.shape;
    const larger = (/** @type {Numbers} */ numbers) => {
      const grown = new this.Numbers(kvHeads * capacity * headDim);
      for (let head = 0; head < kvHeads; head++) {
        grown.set(numbers.subarray(head * before * headDim, (head + 1) * before * headDim), head * capacity * headDim);
      }
      return grown;
    };
    session.keys = session.keys.map(larger);
    session.values = session.values.map(larger);
    cache.grow(capacity);
  }

  /**
   * Fits the row limit of a run to TARGET_RUN_SECONDS; a run below the limit changes nothing.
   * @param {number} rows
   * @param {number} seconds
   */
  #adaptRows(rows, seconds) {
    if (rows < this.#maxRows) return;
    if (seconds > 1.5 * TARGET_RUN_SECONDS) this.#maxRows = Math.max(MIN_ROWS, this.#maxRows >> 1);
    else if (seconds < 0.6 * TARGET_RUN_SECONDS) this.#maxRows = Math.min(MAX_ROWS, this.#maxRows * 2);
  }
}
