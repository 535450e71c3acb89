// Proposes the tokens that the target is most likely to sample, with the noise that both sides share
// (edgedraft/sampling/sampler.py, propose_tokens).

import { GumbelNoise } from "./noise.js";

/**
 * @typedef {import("./wire.js").Sampling} Sampling
 * @typedef {import("./proposal.js").Proposal} Proposal
 */

const MAX_CANDIDATES = 6; // per request
const MIN_SIBLING_PROBABILITY = 0.03; // all candidates but the first are dropped below it
const CACHED_INDICES = 64;

/** @param {Sampling} sampling */
export function hasPenalties(sampling) {
  return Boolean(sampling.frequencyPenalty || sampling.presencePenalty) || sampling.repetitionPenalty !== 1;
}

/** Samples from the logits of one draft model, whose columns stand for the tokens `ids`, ascending or not. */
export class Sampler {
  /** Noise of all columns by seed and output index, drawn once for all branches of a tree. @type {Map<string, Float32Array>} */
  #noise = new Map();
  /** @type {Map<number, number>} */
  #columns = new Map();

  /** @param {Uint32Array} ids */
  constructor(ids) {
    this.ids = ids;
    ids.forEach((token, column) => this.#columns.set(token, column));
  }

  /**
   * The tokens that most likely follow a request's context, best first.
   * @param {Float32Array} logits [columns]; changed
   * @param {import("./proposal.js").DraftRequest} request
   * @returns {Proposal}
   */
  propose(logits, request) {
    const { sampling } = request;
    if (sampling.logitBias.size || hasPenalties(sampling)) this.#penalise(logits, request);
    if (sampling.temperature > 0) {
      for (let i = 0; i < logits.length; i++) logits[i] /= sampling.temperature;
      applyFilters(logits, sampling);
      this.#addNoise(logits, sampling.seed, request.index);
      for (let i = 0; i < logits.length; i++) logits[i] *= sampling.temperature;
    }
    const best = largest(logits, MAX_CANDIDATES);
    const highest = logits[best[0]];
    let total = 0;
    for (let i = 0; i < logits.length; i++) total += Math.exp(logits[i] - highest);
    const probabilities = best.map((column) => Math.min(1, Math.exp(logits[column] - highest) / total));
    const kept = best.map((_, i) => i).filter((i) => i === 0 || probabilities[i] >= MIN_SIBLING_PROBABILITY);
    return {
      tokens: kept.map((i) => this.ids[best[i]]),
      parents: kept.map(() => -1),
      probabilities: kept.map((i) => probabilities[i]),
      complete: true,
    };
  }

  /**
   * Adds g(seed, index, token) to scores [columns].
   * @param {Float32Array} scores
   * @param {bigint} seed
   * @param {number} index
   */
  #addNoise(scores, seed, index) {
    const name = `${seed} ${index}`;
    let drawn = this.#noise.get(name);
    if (!drawn) {
      const noise = new GumbelNoise(seed, index);
      drawn = Float32Array.from(this.ids, (token) => noise.at(token));
      this.#noise.set(name, drawn);
      if (this.#noise.size > CACHED_INDICES) this.#noise.delete(/** @type {string} */ (this.#noise.keys().next().value));
    }
    for (let i = 0; i < scores.length; i++) scores[i] += drawn[i];
  }

  /**
   * Applies bias and penalties by the text of the request (edgedraft/sampling/penalties.py).
   * @param {Float32Array} logits
   * @param {import("./proposal.js").DraftRequest} request
   */
  #penalise(logits, { context, index, sampling }) {
    for (const [token, bias] of sampling.logitBias) {
      const column = this.#columns.get(token);
      if (column !== undefined) logits[column] += bias;
    }
    if (!hasPenalties(sampling)) return;
    const start = context.length - index;
    /** @type {Map<number, number>} */
    const counts = new Map();
    if (sampling.repetitionPenalty !== 1) for (let i = 0; i < start; i++) counts.set(context[i], 0);
    for (let i = start; i < context.length; i++) counts.set(context[i], (counts.get(context[i]) ?? 0) + 1);
    for (const [token, count] of counts) {
      const column = this.#columns.get(token);
      if (column === undefined) continue;
      let logit = logits[column];
      logit = logit > 0 ? logit / sampling.repetitionPenalty : logit * sampling.repetitionPenalty;
      logits[column] = logit - sampling.frequencyPenalty * count - (count > 0 ? sampling.presencePenalty : 0);
    }
  }
}

/**
 * Sets scores that top_k, top_p or min_p exclude to -Infinity, each on what the one before left.
 * @param {Float32Array} scores logits / temperature
 * @param {Sampling} sampling
 */
function applyFilters(scores, { topK, topP, minP }) {
  if (topK > 0 && topK < scores.length) exclude(scores, scores[/** @type {number} */ (largest(scores, topK).at(-1))]);
  if (topP < 1) exclude(scores, topPThreshold(scores, topP));
  if (minP > 0) exclude(scores, scores[largest(scores, 1)[0]] + Math.log(minP));
}

/**
 * The least score among the most probable tokens that together reach `topP`.
 * @param {Float32Array} scores
 * @param {number} topP
 */
function topPThreshold(scores, topP) {
  const sorted = scores.slice().sort().reverse();
  let total = 0;
  for (const score of sorted) total += Math.exp(score - sorted[0]);
  let before = 0;
  let last = 0;
  while (last < sorted.length && before < topP * total) before += Math.exp(sorted[last++] - sorted[0]);
  return sorted[Math.max(0, last - 1)];
}

/**
 * @param {Float32Array} scores
 * @param {number} least
 */
function exclude(scores, least) {
  for (let i = 0; i < scores.length; i++) if (scores[i] < least) scores[i] = -Infinity;
}

/**
 * The columns of the `count` largest scores, the largest first; of equal ones the lower column.
 * @param {Float32Array} scores
 * @param {number} count
 * @returns {number[]}
 */
function largest(scores, count) {
  if (count > 32) {
    const order = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b);
    return order.slice(0, count);
  }
  /** @type {number[]} */
  const best = [];
  for (let i = 0; i < scores.length; i++) {
    if (best.length === count && !(scores[i] > scores[best[count - 1]])) continue;
    let place = Math.min(best.length, count - 1);
    while (place > 0 && scores[i] > scores[best[place - 1]]) {
      best[place] = best[place - 1];
      place--;
    }
    best[place] = i;
  }
  return best;
}
