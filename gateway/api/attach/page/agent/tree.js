// The agent's copy of a session's draft tree (edgedraft/tree.py): the agent adds nodes, commits move the cursor down.

/**
 * One draft token. `cost` is that of the path from the epoch's root.
 * @typedef {{id: number, token: number, parent: number, cost: number, depth: number, children: Map<number, number>}} Node
 */

export class DraftTree {
  /** The live nodes by id, the cursor among them. @type {Map<number, Node>} */
  nodes = new Map();
  /** The id of the deepest node on the committed path. */
  cursor = 0;
  /** Of the next node of this epoch. */
  nextId = 1;
  /** Output tokens before the epoch, and before the cursor. */
  at = 0;
  position = 0;

  /**
   * @param {number[]} committed output tokens
   * @param {number} epoch the first epoch to use
   */
  constructor(committed, epoch) {
    this.committed = [...committed];
    this.epoch = epoch;
    this.#plant();
  }

  #plant() {
    this.nodes = new Map([[0, { id: 0, token: -1, parent: -1, cost: 0, depth: 0, children: new Map() }]]);
    this.cursor = 0;
    this.nextId = 1;
    this.at = this.position = this.committed.length;
  }

  /** The number of live nodes below the cursor. */
  get size() {
    return this.nodes.size - 1;
  }

  /** The number of committed tokens beyond the cursor. */
  get surplus() {
    return this.committed.length - this.position;
  }

  /**
   * The live node of that id, the cursor included.
   * @param {number} id
   * @returns {Node}
   */
  node(id) {
    const node = this.nodes.get(id);
    if (!node) throw new RangeError(`there is no live node ${id}`);
    return node;
  }

  startEpoch() {
    this.epoch++;
    this.#plant();
  }

  /**
   * Adds nodes with the ids nextId, nextId + 1, ... below live parents; the caller adds no token twice.
   * @param {number[]} tokens
   * @param {number[]} parents
   * @param {number[]} costs bytes of confidence
   */
  add(tokens, parents, costs) {
    tokens.forEach((token, i) => {
      const parent = this.node(parents[i]);
      const id = this.nextId++;
      const node = { id, token, parent: parent.id, cost: parent.cost + costs[i], depth: parent.depth + 1, children: new Map() };
      this.nodes.set(id, node);
      parent.children.set(token, id);
    });
  }

  /**
   * Appends output tokens at positions at, at + 1, ...
   * @param {number} at
   * @param {number[]} tokens
   */
  commit(at, tokens) {
    if (at !== this.committed.length) {
      throw new RangeError(`commit at ${at}, but ${this.committed.length} tokens are committed`);
    }
    this.committed.push(...tokens);
    while (this.position < this.committed.length) {
      const { children } = this.node(this.cursor);
      const hit = children.get(this.committed[this.position]);
      for (const child of children.values()) if (child !== hit) this.#drop(child);
      children.clear();
      if (hit === undefined) return;
      this.nodes.delete(this.cursor);
      this.cursor = hit;
      this.position++;
    }
  }

  /**
   * The tokens from below the cursor down to a live node.
   * @param {number} id
   */
  path(id) {
    const tokens = [];
    while (id !== this.cursor) {
      const node = this.node(id);
      tokens.push(node.token);
      id = node.parent;
    }
    return tokens.reverse();
  }

  /** @param {number} id */
  #drop(id) {
    const pending = [id];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      pending.push(...this.node(next).children.values());
      this.nodes.delete(next);
    }
  }
}
