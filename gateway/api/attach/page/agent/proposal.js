// Proposals of drafters: small trees of tokens with probabilities, and how several become one (drafters/interface.py).

/**
 * A position in a session's text whose next tokens are wanted. `context` holds all tokens before it, of which the first
 * `committed` are prompt and committed output; `index` is the output index of the next token.
 * @typedef {{session: number, context: number[], committed: number, index: number, sampling: import("./wire.js").Sampling}} DraftRequest
 */

/**
 * Tokens with their parents' indices (-1: the requested position; parents come first) and their probabilities given
 * their parents. `complete` is false when the same request would return more later.
 * @typedef {{tokens: number[], parents: number[], probabilities: number[], complete: boolean}} Proposal
 */

/** @type {Proposal} */
export const NO_PROPOSAL = Object.freeze({ tokens: [], parents: [], probabilities: [], complete: true });
/** @type {Proposal} */
export const INCOMPLETE = Object.freeze({ ...NO_PROPOSAL, complete: false });

/**
 * A chain of tokens as a proposal.
 * @param {number[]} tokens
 * @param {number[]} probabilities
 * @returns {Proposal}
 */
export function chain(tokens, probabilities) {
  return { tokens, parents: tokens.map((_, i) => i - 1), probabilities, complete: true };
}

/**
 * Merges proposals for one request into one tree: the same token under the same parent becomes one node with the highest
 * of its probabilities, and siblings that add up to more than 1 are scaled down to 1.
 * @param {Proposal[]} parts
 * @returns {Proposal}
 */
export function merge(parts) {
  const proposed = parts.filter((part) => part.tokens.length);
  const complete = parts.every((part) => part.complete);
  if (proposed.length <= 1 && complete) return proposed[0] ?? NO_PROPOSAL;
  /** @type {Proposal} */
  const merged = { tokens: [], parents: [], probabilities: [], complete };
  /** @type {Map<number, Map<number, number>>} */
  const children = new Map();
  for (const part of parts) {
    const places = new Map([[-1, -1]]);
    part.tokens.forEach((token, i) => {
      const parent = /** @type {number} */ (places.get(part.parents[i]));
      let siblings = children.get(parent);
      if (!siblings) children.set(parent, (siblings = new Map()));
      let place = siblings.get(token);
      if (place === undefined) {
        place = merged.tokens.length;
        siblings.set(token, place);
        merged.tokens.push(token);
        merged.parents.push(parent);
        merged.probabilities.push(part.probabilities[i]);
      } else {
        merged.probabilities[place] = Math.max(merged.probabilities[place], part.probabilities[i]);
      }
      places.set(i, place);
    });
  }
  for (const siblings of children.values()) {
    let total = 0;
    for (const i of siblings.values()) total += merged.probabilities[i];
    if (total > 1) for (const i of siblings.values()) merged.probabilities[i] /= total;
  }
  return merged;
}
