// One session's keys and values in the draft model: a tree of computed rows, each in a slot of its own.
//
// A row is one token behind a path of other rows. It is computed once, whichever branch is requested next; what is
// committed keeps its slot, and slots of rows that contradict it are free again. The mask of a run says which slots a row
// attends to, so nothing is moved and nothing is computed again after a rollback.

/**
 * `slot` is -1 until the row was computed; `run` is its index in the scheduled run, or -1.
 * @typedef {{token: number, depth: number, parent: Row | null, slot: number, run: number, children: Map<number, Row>}} Row
 */

const FIRST_CAPACITY = 256; // slots

export class SessionCache {
  #free = /** @type {number[]} */ ([]);
  capacity = 0;

  constructor() {
    /** @type {Row} */
    this.root = { token: -1, depth: 0, parent: null, slot: -1, run: -1, children: new Map() };
    /** The deepest computed row of the committed text. */
    this.base = this.root;
    /** @type {Row[]} */
    this.scheduled = [];
  }

  /** Slots that hold rows. */
  get used() {
    return this.capacity - this.#free.length;
  }

  /**
   * Moves the base down the committed text context[:committed], and frees the rows that contradict it. The last committed
   * token stays below the base, so that it can be run again for its logits.
   * @param {number[]} context
   * @param {number} committed
   */
  follow(context, committed) {
    const end = Math.max(0, committed - 1);
    while (this.base.depth < end) {
      const next = this.base.children.get(context[this.base.depth]);
      if (!next) {
        for (const child of this.base.children.values()) this.#release(child);
        this.base.children.clear();
        return;
      }
      this.#keepOnly(next);
      this.base = next;
    }
    if (!committed) return;
    const last = this.base.children.get(context[end]);
    for (const [token, child] of this.base.children) {
      if (child === last) continue;
      this.#release(child);
      this.base.children.delete(token);
    }
  }

  /**
   * Frees all rows below the base.
   */
  dropDrafts() {
    for (const child of this.base.children.values()) this.#release(child);
    this.base.children.clear();
  }

  /**
   * The number of rows to add to the scheduled run for the logits behind `context`.
   * @param {number[]} context
   */
  missing(context) {
    const row = this.#deepest(context);
    return row.depth < context.length ? context.length - row.depth : Number(row.run < 0);
  }

  /**
   * Schedules the first `limit` missing rows of a context; returns its last row if that is among them, else null.
   * @param {number[]} context
   * @param {number} limit
   */
  schedule(context, limit) {
    let row = this.#deepest(context);
    if (row.depth === context.length) {
      if (row.run < 0) this.#add(row);
      return row;
    }
    for (let n = 0; n < limit && row.depth < context.length; n++) {
      /** @type {Row} */
      const child = { token: context[row.depth], depth: row.depth + 1, parent: row, slot: -1, run: -1, children: new Map() };
      row.children.set(child.token, child);
      this.#add(child);
      row = child;
    }
    return row.depth === context.length ? row : null;
  }

  /**
   * Gives the scheduled rows their slots, a new one where a row has none; returns them by run index, -1 for a row that is
   * run again.
   */
  finish() {
    const slots = this.scheduled.map((row) => {
      row.run = -1;
      if (row.slot >= 0) return -1;
      row.slot = /** @type {number} */ (this.#free.pop());
      return row.slot;
    });
    this.scheduled = [];
    return slots;
  }

  /** Forgets the scheduled rows of a run that failed. */
  abandon() {
    for (const row of this.scheduled) {
      row.run = -1;
      if (row.slot < 0) row.parent?.children.delete(row.token);
    }
    this.scheduled = [];
  }

  /**
   * The capacity that so many more rows need, which doubles.
   * @param {number} rows
   */
  capacityFor(rows) {
    let capacity = Math.max(FIRST_CAPACITY, this.capacity);
    while (capacity < this.used + rows) capacity *= 2;
    return capacity;
  }

  /** @param {number} capacity */
  grow(capacity) {
    for (let slot = capacity - 1; slot >= this.capacity; slot--) this.#free.push(slot);
    this.#free.sort((a, b) => b - a);
    this.capacity = capacity;
  }

  /** @param {Row} row */
  #add(row) {
    row.run = this.scheduled.length;
    this.scheduled.push(row);
  }

  /**
   * The deepest row on the path of a context.
   * @param {number[]} context
   */
  #deepest(context) {
    let row = this.base;
    for (let next = row.children.get(context[row.depth]); next; next = row.children.get(context[row.depth])) {
      if (row.depth >= context.length) break;
      row = next;
    }
    return row;
  }

  /** @param {Row} row */
  #keepOnly(row) {
    const { children } = /** @type {Row} */ (row.parent);
    for (const [token, sibling] of children) {
      if (sibling === row) continue;
      this.#release(sibling);
      children.delete(token);
    }
  }

  /** @param {Row} row */
  #release(row) {
    const pending = [row];
    for (let next = pending.pop(); next; next = pending.pop()) {
      if (next.slot >= 0) this.#free.push(next.slot);
      pending.push(...next.children.values());
    }
  }
}
