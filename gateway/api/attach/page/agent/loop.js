// The drafting loop: drafts for all sessions and never waits for a verifier (edge_agent/drafting/loop.py).
// An error in one session ends only that session's drafting, unless it is the drafter that no longer works.
//
// Each iteration handles all messages that have arrived, takes the best draft requests of all sessions, passes them to the
// drafter in one batch, and sends the new draft nodes. Without anything worth drafting it sleeps until a message comes.

import { DraftSession } from "./draft_session.js";
import { DraftThreshold, ForwardCosts, MAX_REQUESTS_PER_SESSION, selectRequests } from "./pace.js";
import { MAX_AGENT_TEXT } from "./wire.js";

/**
 * @typedef {import("./proposal.js").Proposal} Proposal
 * @typedef {import("./proposal.js").DraftRequest} DraftRequest
 * @typedef {import("./wire.js").Draft} Draft
 * @typedef {import("./wire.js").Incoming} Incoming
 * @typedef {{open(session: number): void, close(session: number): void,
 *   propose(requests: DraftRequest[]): Promise<Proposal[]>}} Drafter
 * @typedef {{drafted: number, accepted: number, verified: number, committed: number, sessions: number,
 *   forwards: number, forwardSeconds: number}} Stats
 */

const MAX_FAILURES = 3; // forwards of one request that fail in a row; then the drafter is broken
const NOT_READY_MS = 50; // between two looks whether what was sent has left

/** @returns {Stats} */
export function newStats() {
  return { drafted: 0, accepted: 0, verified: 0, committed: 0, sessions: 0, forwards: 0, forwardSeconds: 0 };
}

export class DraftingLoop {
  /** @type {Map<number, DraftSession>} */
  #sessions = new Map();
  /** @type {Map<number, number>} */
  #committedAt = new Map();
  #threshold = new DraftThreshold();
  #costs = new ForwardCosts();
  /** @type {Incoming[]} */
  #inbox = [];
  #wake = () => {};
  #closed = false;
  #failures = 0;

  /**
   * @param {Drafter} drafter
   * @param {{vocabSize: number, maxSessions: number}} limits
   * @param {(drafts: Draft[]) => void} send
   * @param {Stats} stats
   * @param {() => boolean} mayDraft while it is false, commits are applied and nothing is drafted
   */
  constructor(drafter, limits, send, stats, mayDraft) {
    this.drafter = drafter;
    this.limits = limits;
    this.send = send;
    this.stats = stats;
    this.mayDraft = mayDraft;
  }

  /** @param {Incoming[]} messages */
  receive(messages) {
    this.#inbox.push(...messages);
    this.#wake();
  }

  /** Has the loop look again whether it may draft. */
  wake() {
    this.#wake();
  }

  close() {
    this.#closed = true;
    this.#wake();
  }

  /** Runs until it is closed. Throws what a broken drafter throws. */
  async run() {
    try {
      while (!this.#closed) {
        for (const message of this.#inbox.splice(0)) this.#handle(message);
        if (this.mayDraft() && (await this.#draft())) await nextTask();
        else await this.#sleep();
      }
    } finally {
      for (const number of [...this.#sessions.keys()]) this.#end(number);
    }
  }

  /** Until a message arrives or the loop is woken; while it may not draft, it looks again now and then. */
  async #sleep() {
    if (this.#inbox.length || this.#closed) return;
    const timer = this.mayDraft() ? 0 : setTimeout(() => this.#wake(), NOT_READY_MS);
    await new Promise((resolve) => {
      this.#wake = () => resolve(undefined);
    });
    clearTimeout(timer);
    this.#wake = () => {};
  }

  /** @param {Incoming} message */
  #handle(message) {
    if (message.kind === "open") this.#open(message.open);
    else if (message.kind === "commit") this.#commit(message.commit);
    else if (message.kind === "close") this.#end(message.session);
  }

  /** @param {import("./wire.js").Open} open */
  #open(open) {
    const known = this.#sessions.get(open.session);
    if (!known && this.#sessions.size >= this.limits.maxSessions) return;
    if (!this.#acceptable(0, [...open.prompt, ...open.committed])) {
      this.#end(open.session);
      return;
    }
    const epoch = Math.max(open.epoch, known ? known.tree.epoch : 0) + 1;
    this.#sessions.set(open.session, new DraftSession(open, epoch));
    this.drafter.open(open.session);
    if (!known) this.stats.sessions++;
  }

  /** @param {import("./wire.js").Commit} commit */
  #commit(commit) {
    const session = this.#sessions.get(commit.session);
    if (!session) return; // a late commit of a session that has ended here
    let drafts;
    try {
      if (!this.#acceptable(session.text.length, commit.tokens)) throw new RangeError("unacceptable tokens");
      drafts = session.commit(commit);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.#end(commit.session);
      return;
    }
    const now = performance.now() / 1000;
    const before = this.#committedAt.get(commit.session);
    if (before !== undefined) this.#threshold.recordCommit(now - before);
    this.#committedAt.set(commit.session, now);
    this.stats.accepted += commit.accepted;
    this.stats.verified += commit.nodes;
    this.stats.committed += commit.tokens.length;
    this.#post(drafts);
    if (commit.finish !== null) this.#end(commit.session);
  }

  /**
   * Whether the tokens are in the vocabulary and fit after a text of `length` tokens.
   * @param {number} length
   * @param {number[]} tokens
   */
  #acceptable(length, tokens) {
    return length + tokens.length <= MAX_AGENT_TEXT && tokens.every((token) => token < this.limits.vocabSize);
  }

  /** One forward of the drafter for all sessions; false when none of them had anything worth drafting. */
  async #draft() {
    /** @type {Map<number, {mass: number, id: number}[]>} */
    const candidates = new Map();
    for (const [number, session] of this.#sessions) {
      session.minPath = this.#threshold.minPath;
      const found = session.candidates(MAX_REQUESTS_PER_SESSION);
      if (found.length) candidates.set(number, found);
    }
    const selected = selectRequests(candidates, (requests) => this.#costs.seconds(requests));
    if (!selected.length) return false;
    const sessions = selected.map(({ session }) => /** @type {DraftSession} */ (this.#sessions.get(session)));
    const requests = selected.map(({ id }, i) => sessions[i].requestAt(id));
    const start = performance.now();
    const proposals = await this.#propose(requests);
    const seconds = (performance.now() - start) / 1000;
    this.#threshold.recordForward(seconds);
    if (proposals.every((proposal) => proposal?.complete)) this.#costs.record(requests.length, seconds);
    this.stats.forwards++;
    this.stats.forwardSeconds += seconds;
    /** @type {Map<DraftSession, [number, Proposal][]>} */
    const bySession = new Map();
    selected.forEach(({ id }, i) => {
      const proposal = proposals[i];
      if (!proposal) return;
      const own = bySession.get(sessions[i]) ?? [];
      own.push([id, proposal]);
      bySession.set(sessions[i], own);
    });
    this.#post([...bySession].flatMap(([session, found]) => session.addProposals(found)));
    return true;
  }

  /**
   * The drafter's proposals. After an error each request is tried alone; null for a session that broke it.
   * @param {DraftRequest[]} requests
   * @returns {Promise<(Proposal | null)[]>}
   */
  async #propose(requests) {
    try {
      const proposals = await this.drafter.propose(requests);
      this.#failures = 0;
      return proposals;
    } catch (error) {
      if (requests.length > 1) {
        const alone = [];
        for (const request of requests) {
          const open = this.#sessions.has(request.session);
          alone.push(...(open ? await this.#propose([request]) : [null]));
        }
        return alone;
      }
      if (++this.#failures >= MAX_FAILURES) throw error;
      this.#end(requests[0].session);
      return [null];
    }
  }

  /** @param {Draft[]} drafts */
  #post(drafts) {
    if (!drafts.length) return;
    for (const draft of drafts) this.stats.drafted += draft.tokens.length;
    this.send(drafts);
  }

  /** @param {number} number */
  #end(number) {
    if (!this.#sessions.delete(number)) return;
    this.#committedAt.delete(number);
    this.drafter.close(number);
    this.stats.sessions--;
  }
}

const channel = new MessageChannel();
/** @type {(() => void)[]} */
const waiting = [];
channel.port1.onmessage = () => waiting.shift()?.();

/** Lets messages that have arrived be handled; unlike a timer it is never delayed. */
function nextTask() {
  return new Promise((resolve) => {
    waiting.push(() => resolve(undefined));
    channel.port2.postMessage(null);
  });
}
