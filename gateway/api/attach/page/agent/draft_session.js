// The agent's state of one session: its text, its draft tree, and where to draft next (edge_agent/drafting/draft_session.py).

import { NO_PROPOSAL, merge } from "./proposal.js";
import { DraftTree } from "./tree.js";
import { MAX_DRAFT_NODES, MAX_WINDOW } from "./wire.js";

/**
 * @typedef {import("./proposal.js").Proposal} Proposal
 * @typedef {import("./proposal.js").DraftRequest} DraftRequest
 * @typedef {import("./tree.js").Node} Node
 * @typedef {import("./wire.js").Draft} Draft
 */

export const DEFAULT_MIN_PATH = 0.02; // path probability; used until the threshold has been measured
const SENT_PROBABILITY = 0.75;
const MAX_SENT_PATH = 0.02;

/** @param {number} probability in (0, 1] */
export function confidenceByte(probability) {
  return Math.min(255, Math.max(0, Math.round(-16 * Math.log2(Math.max(probability, 1e-9)))));
}

/** @param {number} cost a byte of confidence, or a sum of such bytes along a path */
export function confidenceProbability(cost) {
  return 2 ** (-cost / 16);
}

export class DraftSession {
  minPath = DEFAULT_MIN_PATH;

  /**
   * @param {import("./wire.js").Open} open
   * @param {number} epoch the first epoch to use, above all that the session had before
   */
  constructor(open, epoch) {
    this.number = open.session;
    this.tree = new DraftTree(open.committed, epoch);
    this.text = [...open.prompt, ...open.committed];
    this.sampling = open.sampling;
    this.maxTokens = open.maxTokens;
    this.eos = new Set(open.eos);
    this.window = open.window;
    /** Probabilities by id of the nodes to draft from, relative to the epoch's root. @type {Map<number, number>} */
    this.uncovered = new Map();
    /** Proposals below the threshold or beyond the window, by node. @type {Map<number, Proposal>} */
    this.heldBack = new Map();
    this.#addCandidate(this.tree.node(0));
  }

  /**
   * Applies a commit; returns drafts of proposals that were held back and are now above the threshold. After a mismatch
   * a new epoch starts behind the committed text. Throws a RangeError for a commit that does not follow the text.
   * @param {import("./wire.js").Commit} commit
   * @returns {Draft[]}
   */
  commit(commit) {
    const { tree } = this;
    tree.commit(commit.at, commit.tokens);
    this.text.push(...commit.tokens);
    this.window = Math.min(commit.window, MAX_WINDOW);
    if (tree.surplus) {
      tree.startEpoch();
      this.uncovered.clear();
      this.#addCandidate(tree.node(0));
      this.heldBack.clear();
      return [];
    }
    for (const id of [...this.uncovered.keys()]) if (!tree.nodes.has(id)) this.uncovered.delete(id);
    const held = [...this.heldBack].filter(([id]) => tree.nodes.has(id));
    this.heldBack.clear();
    return join(
      held
        .map(([id, proposal]) => ({ id, proposal, cost: tree.node(id).cost + confidenceByte(Math.max(...proposal.probabilities)) }))
        .sort((a, b) => a.cost - b.cost || a.id - b.id)
        .map(({ id, proposal }) => this.#addBelow(id, proposal)),
    );
  }

  /**
   * The best nodes to draft from, the most probable first. There are none while the window is full.
   * @param {number} limit
   * @returns {{mass: number, id: number}[]}
   */
  candidates(limit) {
    if (this.tree.size >= this.window) return [];
    const root = confidenceProbability(this.tree.node(this.tree.cursor).cost);
    return [...this.uncovered]
      .map(([id, mass]) => ({ mass: mass / root, id }))
      .filter(({ mass }) => mass >= this.minPath)
      .sort((a, b) => b.mass - a.mass || b.id - a.id)
      .slice(0, limit);
  }

  /**
   * The request to draft from a live node.
   * @param {number} id
   * @returns {DraftRequest}
   */
  requestAt(id) {
    return {
      session: this.number,
      context: this.text.concat(this.tree.path(id)),
      committed: this.text.length,
      index: this.#outputIndex(this.tree.node(id)),
      sampling: this.sampling,
    };
  }

  /**
   * Adds a drafter's proposals below the nodes that were requested; returns the drafts to send.
   * @param {[number, Proposal][]} proposals
   * @returns {Draft[]}
   */
  addProposals(proposals) {
    return join(
      proposals.map(([id, proposal]) => {
        if (proposal.complete) this.uncovered.delete(id);
        return this.#addBelow(id, proposal);
      }),
    );
  }

  /**
   * @param {number} id
   * @param {Proposal} proposal
   * @returns {Draft | null}
   */
  #addBelow(id, proposal) {
    const { tree } = this;
    const free = Math.min(MAX_DRAFT_NODES, Math.max(0, this.window - tree.size));
    const { ids, fresh } = this.#newNodes(id, proposal);
    const sentPath = Math.min(MAX_SENT_PATH, SENT_PROBABILITY / Math.max(1, this.window));
    let maxCost = tree.node(tree.cursor).cost + confidenceByte(Math.max(this.minPath, sentPath));
    fresh.sort((a, b) => a.cost - b.cost || a.i - b.i);
    if (fresh.length && !tree.size) maxCost = Math.max(maxCost, fresh[0].cost);
    // A child costs no less than its parent and has a higher index, so every chosen node's parent is chosen too.
    const chosen = fresh
      .slice(0, free)
      .filter(({ cost }) => cost <= maxCost)
      .map(({ i }) => i)
      .sort((a, b) => a - b);
    const first = tree.nextId;
    chosen.forEach((i, n) => ids.set(i, first + n));
    this.#holdBack(proposal, ids, fresh.map(({ i }) => i).filter((i) => !ids.has(i)).sort((a, b) => a - b));
    if (!chosen.length) return null;
    const tokens = chosen.map((i) => proposal.tokens[i]);
    const parents = chosen.map((i) => /** @type {number} */ (ids.get(proposal.parents[i])));
    const confidence = chosen.map((i) => confidenceByte(proposal.probabilities[i]));
    tree.add(tokens, parents, confidence);
    parents.forEach((parent, n) => {
      const node = tree.node(first + n);
      const mass = this.uncovered.get(parent);
      if (mass !== undefined) this.uncovered.set(parent, mass - confidenceProbability(node.cost));
      this.#addCandidate(node);
    });
    return { session: this.number, epoch: tree.epoch, at: tree.at, first, tokens, parents, confidence };
  }

  /**
   * Ids of a proposal's nodes that are in the tree already, by index, and the new ones with their path's cost. Tokens
   * beyond an end of the text or of the output are in neither.
   * @param {number} id
   * @param {Proposal} proposal
   */
  #newNodes(id, proposal) {
    const node = this.tree.node(id);
    const ids = new Map([[-1, id]]);
    const cost = new Map([[-1, node.cost]]);
    const left = new Map([[-1, this.#isLast(node) ? 0 : this.maxTokens - this.#outputIndex(node)]]);
    /** @type {{cost: number, i: number}[]} */
    const fresh = [];
    proposal.tokens.forEach((token, i) => {
      const parent = proposal.parents[i];
      const parentId = ids.get(parent);
      const known = parentId === undefined ? undefined : this.tree.node(parentId).children.get(token);
      const parentLeft = /** @type {number} */ (left.get(parent));
      left.set(i, this.eos.has(token) ? 0 : parentLeft - 1);
      if (known !== undefined) {
        ids.set(i, known);
        cost.set(i, this.tree.node(known).cost);
        return;
      }
      const own = /** @type {number} */ (cost.get(parent)) + confidenceByte(proposal.probabilities[i]);
      cost.set(i, own);
      if (parentLeft > 0) fresh.push({ cost: own, i });
    });
    return { ids, fresh };
  }

  /** @param {Node} node */
  #addCandidate(node) {
    if (!this.#isLast(node)) this.uncovered.set(node.id, confidenceProbability(node.cost));
  }

  /**
   * Keeps the tokens at the indices `out`, ascending, each below its deepest ancestor in the tree.
   * @param {Proposal} proposal
   * @param {Map<number, number>} ids
   * @param {number[]} out
   */
  #holdBack(proposal, ids, out) {
    /** @type {Map<number, number>} */
    const ancestors = new Map();
    for (const i of out) {
      const parent = proposal.parents[i];
      ancestors.set(i, /** @type {number} */ (ids.get(parent) ?? ancestors.get(parent)));
    }
    for (const id of new Set(ancestors.values())) {
      const own = out.filter((i) => ancestors.get(i) === id);
      const place = new Map(own.map((i, n) => [i, n]));
      const held = {
        tokens: own.map((i) => proposal.tokens[i]),
        parents: own.map((i) => place.get(proposal.parents[i]) ?? -1),
        probabilities: own.map((i) => proposal.probabilities[i]),
        complete: true,
      };
      this.heldBack.set(id, merge([this.heldBack.get(id) ?? NO_PROPOSAL, held]));
    }
  }

  /** @param {Node} node */
  #outputIndex(node) {
    return this.tree.committed.length + node.depth - this.tree.node(this.tree.cursor).depth;
  }

  /** @param {Node} node */
  #isLast(node) {
    return this.eos.has(node.token) || this.#outputIndex(node) >= this.maxTokens;
  }
}

/**
 * Consecutive drafts of one epoch as few messages.
 * @param {(Draft | null)[]} drafts
 * @returns {Draft[]}
 */
function join(drafts) {
  /** @type {Draft[]} */
  const joined = [];
  for (const draft of drafts) {
    if (!draft) continue;
    const last = joined.at(-1);
    if (last && last.tokens.length + draft.tokens.length <= MAX_DRAFT_NODES) {
      last.tokens.push(...draft.tokens);
      last.parents.push(...draft.parents);
      last.confidence.push(...draft.confidence);
    } else {
      joined.push(draft);
    }
  }
  return joined;
}
