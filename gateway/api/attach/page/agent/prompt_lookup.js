// Prompt lookup: where the last tokens occurred before, what followed them is proposed again
// (edgedraft/proposers/prompt_lookup.py).

import { NO_PROPOSAL, chain } from "./proposal.js";

const NGRAM_SIZES = [4, 3, 2]; // lengths that are looked up, longest first
const TABLE_SIZE = 1 << 15; // n-grams per table; then the oldest go
const MAX_MATCH = 16; // longer matches count as this length
const MAX_CHAIN = 12; // tokens per proposal
const MIN_PATH_PROBABILITY = 0.02;
const PRIOR = [0, 0, 0.25, 0.4, 0.55, 0.65, 0.7, 0.75, ...Array(8).fill(0.8), 0.9];
const PRIOR_WEIGHT = 6;

/** Where the n-grams of one session's text last occurred, and how often a match of each length was right. */
export class NgramIndex {
  #indexed = 0; // tokens of the committed text that are in the tables
  #tables = NGRAM_SIZES.map(() => /** @type {Map<string, number>} */ (new Map()));
  #attempts = new Array(MAX_MATCH + 1).fill(0);
  #hits = new Array(MAX_MATCH + 1).fill(0);

  /**
   * Proposes what may follow a request's context.
   * @param {import("./proposal.js").DraftRequest} request
   */
  propose({ context, committed, index }) {
    this.#update(context, committed, context.length - index);
    const { position, length } = this.#find(context, context.length);
    if (!position) return NO_PROPOSAL;
    /** @type {number[]} */
    const tokens = [];
    const probabilities = [];
    let path = 1;
    for (let step = 0; step < MAX_CHAIN; step++) {
      const probability = this.#probability(length + step);
      path *= probability;
      if (path < MIN_PATH_PROBABILITY) break;
      const source = position + step;
      tokens.push(source < context.length ? context[source] : tokens[source - context.length]);
      probabilities.push(probability);
    }
    return chain(tokens, probabilities);
  }

  /**
   * Indexes committed text. Each output token is predicted first, to measure how often matches are right.
   * @param {number[]} text
   * @param {number} committed
   * @param {number} promptLength
   */
  #update(text, committed, promptLength) {
    for (let position = this.#indexed; position < committed; position++) {
      if (position >= promptLength) {
        const found = this.#find(text, position);
        if (found.position) {
          this.#attempts[Math.min(found.length, MAX_MATCH)]++;
          if (text[found.position] === text[position]) this.#hits[Math.min(found.length, MAX_MATCH)]++;
        }
      }
      NGRAM_SIZES.forEach((n, i) => {
        if (position < n) return;
        const table = this.#tables[i];
        const ngram = text.slice(position - n, position).join();
        table.delete(ngram); // so that it counts as the newest
        table.set(ngram, position);
        if (table.size > TABLE_SIZE) table.delete(/** @type {string} */ (table.keys().next().value));
      });
    }
    this.#indexed = Math.max(this.#indexed, committed);
  }

  /**
   * text[:position] and text[:end] have their last `length` tokens in common; position 0 without a match.
   * @param {number[]} text
   * @param {number} end
   */
  #find(text, end) {
    for (const [i, n] of NGRAM_SIZES.entries()) {
      if (n >= end) continue;
      const position = this.#tables[i].get(text.slice(end - n, end).join());
      if (position === undefined) continue;
      let length = n;
      while (length < Math.min(position, MAX_MATCH) && text[position - length - 1] === text[end - length - 1]) length++;
      return { position, length };
    }
    return { position: 0, length: 0 };
  }

  /** @param {number} length */
  #probability(length) {
    const known = Math.min(length, MAX_MATCH);
    return (this.#hits[known] + PRIOR[known] * PRIOR_WEIGHT) / (this.#attempts[known] + PRIOR_WEIGHT);
  }
}
