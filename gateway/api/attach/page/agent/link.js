// The link to the gateway: a ticket by the key, a WebSocket by the ticket, and another attempt when it is lost.

import { decodeFrame, encodeDrafts, encodeHello, WireError } from "./wire.js";

const SUBPROTOCOL = "edgedraft.agent";
const TICKETS = "/v1/edge/tickets";
const AGENT = "/v1/agent";
const FIRST_BACKOFF = 0.5; // seconds, upper bounds of what is drawn
const MAX_BACKOFF = 30;
const STABLE_SECONDS = 10; // after which an attachment counts as successful
const MOVED_TOO_SOON = 1;
const MAX_UNSENT = 1 << 20; // bytes; beyond them nothing is drafted
const SILENCE_MS = 30_000; // the gateway sends something every ten seconds
const ANSWER_MS = 10_000; // for a ticket, and for the welcome
const MOVE = 4307;
const BAD_FRAME = 4400;

const UNKNOWN_KEY = "The gateway does not know this key.";
const NO_SCOPE = "This key may not attach devices: it needs the edge scope.";
/** Close codes and statuses that another attempt would get again. @type {Record<number, string>} */
const FINAL = {
  401: UNKNOWN_KEY,
  404: "This gateway gives no tickets to browsers.",
  4401: UNKNOWN_KEY,
  4403: NO_SCOPE,
  4406: "The gateway speaks another version of the protocol: reload this page.",
  4409: "The gateway's model has another tokenizer than this draft model: reload this page.",
};

/** Another attempt would fail in the same way; the message is for the user. */
export class Rejected extends Error {}

/** There is no link; another attempt may succeed. `code` is that of the WebSocket's close. */
class Lost extends Error {
  /**
   * @param {string} message
   * @param {number} [code]
   */
  constructor(message, code = 0) {
    super(message);
    this.code = code;
  }
}

/**
 * What runs while a link is open.
 * @typedef {{receive(messages: import("./wire.js").Incoming[]): void, run(): Promise<void>, close(): void}} Attachment
 * @typedef {{key: string, hello: Parameters<typeof encodeHello>[0],
 *   attach(welcome: import("./wire.js").Welcome, link: Link): Attachment,
 *   onState(state: string, detail: string): void}} Agent
 */

/** An open WebSocket to the gateway. */
export class Link {
  /** @param {WebSocket} socket */
  constructor(socket) {
    this.socket = socket;
  }

  /** Whether what was sent has mostly left, so that more may be drafted. */
  get ready() {
    return this.socket.bufferedAmount < MAX_UNSENT;
  }

  /** @param {import("./wire.js").Draft[]} drafts */
  send(drafts) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(encodeDrafts(drafts));
  }
}

/**
 * Stays attached until `signal` aborts. Throws Rejected.
 * @param {Agent} agent
 * @param {AbortSignal} signal
 */
export async function stayAttached(agent, signal) {
  let bound = FIRST_BACKOFF;
  while (!signal.aborted) {
    const start = performance.now();
    try {
      await attach(agent, signal);
      return;
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
      const lasted = (performance.now() - start) / 1000;
      if (error.code === MOVE && lasted >= MOVED_TOO_SOON) {
        agent.onState("moving", error.message);
        continue;
      }
      bound = lasted >= STABLE_SECONDS ? FIRST_BACKOFF : Math.min(MAX_BACKOFF, 2 * bound);
      const wait = bound * Math.random();
      agent.onState("lost", error.message);
      await sleep(wait, signal);
    }
  }
}

/**
 * One attachment, until it ends; returns when `signal` aborts. Throws Rejected or Lost.
 * @param {Agent} agent
 * @param {AbortSignal} signal
 */
async function attach(agent, signal) {
  const ticket = await newTicket(agent.key, signal);
  if (!ticket) return;
  const url = new URL(AGENT, self.location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url, [SUBPROTOCOL, `ticket.${ticket}`]);
  socket.binaryType = "arraybuffer";
  const stop = () => socket.close(1000, "detached");
  signal.addEventListener("abort", stop);
  /** @type {{attachment?: Attachment, ended?: Promise<void>}} */
  const running = {};
  let watch = 0;
  try {
    await new Promise((resolve, reject) => {
      const expect = (/** @type {number} */ milliseconds) => {
        clearTimeout(watch);
        watch = self.setTimeout(() => reject(new Lost("the gateway is silent")), milliseconds);
      };
      expect(ANSWER_MS);
      socket.onopen = () => socket.send(encodeHello(agent.hello));
      socket.onmessage = ({ data }) => {
        try {
          let messages = decodeFrame(data);
          expect(SILENCE_MS);
          if (!running.attachment) {
            const [first, ...rest] = messages;
            if (first?.kind !== "welcome") throw new WireError("the first message must be a welcome");
            running.attachment = agent.attach(first.welcome, new Link(socket));
            running.ended = running.attachment.run().catch(reject);
            agent.onState("attached", first.welcome.model);
            messages = rest;
          }
          running.attachment.receive(messages);
        } catch (error) {
          socket.close(BAD_FRAME, "a bad frame");
          reject(error instanceof WireError ? new Lost(error.message) : error);
        }
      };
      socket.onclose = ({ code, reason }) => {
        if (signal.aborted) resolve(undefined);
        else if (code in FINAL) reject(new Rejected(FINAL[code]));
        else reject(new Lost(reason || "the connection broke", code));
      };
    });
  } finally {
    clearTimeout(watch);
    signal.removeEventListener("abort", stop);
    socket.close(1000, "detached");
    running.attachment?.close();
    await running.ended;
  }
}

/**
 * A ticket that opens one WebSocket; "" when `signal` aborts. Throws Rejected or Lost.
 * @param {string} key
 * @param {AbortSignal} signal
 */
async function newTicket(key, signal) {
  let status;
  let body;
  try {
    const either = AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]);
    const response = await fetch(TICKETS, { method: "POST", headers: { authorization: `Bearer ${key}` }, signal: either });
    status = response.status;
    body = await response.json();
  } catch (error) {
    if (signal.aborted) return "";
    throw new Lost(`the gateway cannot be reached: ${error}`);
  }
  if (status in FINAL) throw new Rejected(FINAL[status]);
  if (status === 403) throw new Rejected(body?.error?.code === "insufficient_scope" ? NO_SCOPE : `${body?.error?.message}`);
  if (typeof body?.ticket !== "string") throw new Lost(`the gateway answers ${status}`);
  return body.ticket;
}

/**
 * @param {number} seconds
 * @param {AbortSignal} signal
 */
function sleep(seconds, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve(undefined);
    };
    const timer = setTimeout(done, 1000 * seconds);
    signal.addEventListener("abort", done);
  });
}
