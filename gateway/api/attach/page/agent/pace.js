// What is worth a draft forward: the path probability of a node, and the number of requests in one forward
// (edge_agent/drafting/draft_threshold.py and forward_size.py).

import { DEFAULT_MIN_PATH } from "./draft_session.js";

const SMOOTHING = 0.1; // weight of the newest value in a moving average
const SCALE = 0.2;
const MIN_THRESHOLD = 0.0005;
const MAX_THRESHOLD = 0.2;
export const MAX_REQUESTS_PER_SESSION = 16; // in one forward
const MAX_FIRST_RATIO = 2; // of a first measurement to what was expected

/** The path probability below which a node is not worth a forward, from the speed of drafter and verifier. */
export class DraftThreshold {
  /** @type {number | null} */
  #forwardSeconds = null;
  /** @type {number | null} */
  #commitInterval = null;

  /** @param {number} seconds */
  recordForward(seconds) {
    this.#forwardSeconds = smoothed(this.#forwardSeconds, seconds);
  }

  /** @param {number} seconds between two commits of one session */
  recordCommit(seconds) {
    this.#commitInterval = smoothed(this.#commitInterval, seconds);
  }

  get minPath() {
    if (!this.#forwardSeconds || !this.#commitInterval) return DEFAULT_MIN_PATH;
    const ratio = this.#forwardSeconds / this.#commitInterval;
    return Math.min(MAX_THRESHOLD, Math.max(MIN_THRESHOLD, SCALE * ratio ** 2));
  }
}

/**
 * Seconds of a forward by its number of requests. A number that was never tried is taken to cost no more than the nearest
 * smaller one, up to twice that number, so that it is tried; beyond that the time grows in proportion.
 */
export class ForwardCosts {
  /** @type {number[]} ascending */
  #requests = [];
  /** @type {Map<number, number>} */
  #seconds = new Map();

  /**
   * @param {number} requests
   * @param {number} seconds
   */
  record(requests, seconds) {
    const known = this.#seconds.get(requests);
    if (known !== undefined) {
      this.#seconds.set(requests, known + SMOOTHING * (seconds - known));
      return;
    }
    const expected = this.#requests.length ? this.seconds(requests) : seconds;
    this.#requests = [...this.#requests, requests].sort((a, b) => a - b);
    this.#seconds.set(requests, Math.min(seconds, MAX_FIRST_RATIO * expected));
  }

  /**
   * Expected seconds of a forward of so many requests; 1 before the first measurement.
   * @param {number} requests
   */
  seconds(requests) {
    if (!this.#requests.length) return 1;
    const found = this.#requests.findIndex((n) => n >= requests);
    const index = found < 0 ? this.#requests.length : found;
    if (found >= 0 && (this.#requests[index] === requests || index === 0)) return this.#of(this.#requests[index]);
    const below = this.#requests[index - 1];
    if (found < 0) return this.#of(below) * Math.max(1, requests / (2 * below));
    const above = this.#requests[index];
    return this.#of(below) + ((requests - below) / (above - below)) * (this.#of(above) - this.#of(below));
  }

  /** @param {number} requests */
  #of(requests) {
    return /** @type {number} */ (this.#seconds.get(requests));
  }
}

/**
 * The requests of the next forward, each session's best one always among them: the number that adds the most expected
 * tokens per second is taken.
 * @param {Map<number, {mass: number, id: number}[]>} candidates by session, the most probable first
 * @param {(requests: number) => number} seconds of a forward
 * @returns {{session: number, id: number}[]}
 */
export function selectRequests(candidates, seconds) {
  const selected = [...candidates].map(([session, found]) => ({ session, id: found[0].id }));
  if (!selected.length) return [];
  let expected = 0;
  for (const found of candidates.values()) expected += found[0].mass;
  const others = [...candidates]
    .flatMap(([session, found]) => found.slice(1).map(({ mass, id }) => ({ session, mass, id })))
    .sort((a, b) => b.mass - a.mass || a.session - b.session || a.id - b.id);
  let best = expected / seconds(selected.length);
  let count = 0;
  others.forEach(({ mass }, n) => {
    expected += mass;
    const rate = expected / seconds(selected.length + n + 1);
    if (rate > best) {
      best = rate;
      count = n + 1;
    }
  });
  return selected.concat(others.slice(0, count).map(({ session, id }) => ({ session, id })));
}

/**
 * @param {number | null} mean
 * @param {number} value
 */
function smoothed(mean, value) {
  return mean === null ? value : mean + SMOOTHING * (value - mean);
}
