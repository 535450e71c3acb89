// The wire protocol of an agent (edgedraft/wire.py): frames are MessagePack arrays of messages, which begin with their tag.

import { decode, encode } from "../vendor/msgpack.js";

export const PROTOCOL = 3;
export const MAX_FRAME_TO_AGENT = 1 << 22; // bytes
export const MAX_AGENT_TEXT = 1 << 18; // tokens of prompt and output; longer texts are not drafted
export const MAX_WINDOW = 256; // uncommitted draft nodes of one session
export const MAX_DRAFT_NODES = 64; // nodes per Draft
const MAX_MESSAGES = 1024; // per frame

/**
 * @typedef {{temperature: number, topK: number, topP: number, minP: number, seed: bigint, frequencyPenalty: number,
 *   presencePenalty: number, repetitionPenalty: number, logitBias: Map<number, number>}} Sampling
 * @typedef {{agent: string, model: string, vocabSize: number, maxSessions: number}} Welcome
 * @typedef {{session: number, prompt: number[], sampling: Sampling, maxTokens: number, committed: number[],
 *   window: number, epoch: number, eos: number[]}} Open
 * @typedef {{session: number, epoch: number, at: number, first: number, tokens: number[], parents: number[],
 *   confidence: number[]}} Draft
 * @typedef {{session: number, at: number, tokens: number[], window: number, accepted: number, nodes: number,
 *   finish: string | null}} Commit
 * @typedef {{kind: "welcome", welcome: Welcome} | {kind: "open", open: Open} | {kind: "commit", commit: Commit} |
 *   {kind: "close", session: number}} Incoming
 */

/** The gateway broke the protocol. */
export class WireError extends Error {}

/**
 * The frame of a Hello.
 * @param {{name: string, fingerprint: string, drafter: string, maxSessions: number, device: string}} hello
 *   `device` is a name of edgedraft/devices.py
 */
export function encodeHello({ name, fingerprint, drafter, maxSessions, device }) {
  return encode([["hello", PROTOCOL, name, fingerprint, drafter, maxSessions, false, device]]);
}

/**
 * One frame with drafts, in order.
 * @param {Draft[]} drafts
 */
export function encodeDrafts(drafts) {
  return encode(
    drafts.map(({ session, epoch, at, first, tokens, parents, confidence }) => [
      "draft",
      session,
      epoch,
      at,
      first,
      tokens,
      parents,
      Uint8Array.from(confidence),
    ]),
  );
}

/**
 * The messages of a frame from a gateway, in order. Throws a WireError for a frame that is none.
 * @param {ArrayBuffer} frame
 * @returns {Incoming[]}
 */
export function decodeFrame(frame) {
  if (frame.byteLength > MAX_FRAME_TO_AGENT) throw new WireError("a frame is too long");
  let messages;
  try {
    messages = decode(new Uint8Array(frame), { useBigInt64: true, maxMapLength: 2048 });
  } catch (error) {
    throw new WireError(`a frame is not MessagePack: ${error}`);
  }
  if (!Array.isArray(messages) || messages.length > MAX_MESSAGES) throw new WireError("a frame is an array of messages");
  return messages.map(message);
}

/**
 * @param {unknown} fields
 * @returns {Incoming}
 */
function message(fields) {
  if (!Array.isArray(fields)) throw new WireError("a message is an array");
  const [tag, ...rest] = fields;
  switch (tag) {
    case "welcome": {
      const [protocol, agent, model, vocabSize, maxSessions] = rest;
      if (number(protocol) !== PROTOCOL) throw new WireError(`the gateway speaks protocol ${protocol}, not ${PROTOCOL}`);
      const welcome = { agent: String(agent), model: String(model), vocabSize: number(vocabSize), maxSessions: number(maxSessions) };
      return { kind: "welcome", welcome };
    }
    case "open": {
      const [session, prompt, values, maxTokens, committed = [], window = 0, epoch = 0, eos = []] = rest;
      const open = {
        session: number(session),
        prompt: numbers(prompt),
        sampling: sampling(values),
        maxTokens: number(maxTokens),
        committed: numbers(committed),
        window: number(window),
        epoch: number(epoch),
        eos: numbers(eos),
      };
      return { kind: "open", open };
    }
    case "commit": {
      const [session, at, tokens, window = 0, nodes = 0, , accepted = 0, , finish = null] = rest;
      const commit = {
        session: number(session),
        at: number(at),
        tokens: numbers(tokens),
        window: number(window),
        nodes: number(nodes),
        accepted: number(accepted),
        finish: finish === null ? null : String(finish),
      };
      return { kind: "commit", commit };
    }
    case "close":
      return { kind: "close", session: number(rest[0]) };
    default:
      throw new WireError(`an unknown message ${JSON.stringify(tag)}`);
  }
}

/**
 * @param {any} values
 * @returns {Sampling}
 */
function sampling(values) {
  if (typeof values !== "object" || values === null || Array.isArray(values)) throw new WireError("sampling is a map");
  return {
    temperature: Number(values.temperature ?? 1),
    topK: number(values.top_k ?? 0),
    topP: Number(values.top_p ?? 1),
    minP: Number(values.min_p ?? 0),
    seed: BigInt(values.seed ?? 0),
    frequencyPenalty: Number(values.frequency_penalty ?? 0),
    presencePenalty: Number(values.presence_penalty ?? 0),
    repetitionPenalty: Number(values.repetition_penalty ?? 1),
    logitBias: new Map(Object.entries(values.logit_bias ?? {}).map(([token, bias]) => [Number(token), Number(bias)])),
  };
}

/**
 * A whole number that a double holds exactly; 64-bit ones arrive as bigint.
 * @param {unknown} value
 */
function number(value) {
  const converted = typeof value === "bigint" ? Number(value) : value;
  if (!Number.isSafeInteger(converted) || /** @type {number} */ (converted) < 0) throw new WireError(`${value} is no count`);
  return /** @type {number} */ (converted);
}

/** @param {unknown} values */
function numbers(values) {
  if (!Array.isArray(values)) throw new WireError("tokens are an array");
  return values.map(number);
}
