// Gumbel noise g(seed, index, token) with the same bits as in Python: docs/noise.md specifies it bit by bit.

const FRACTION_BITS = 18;
const FRACTION = 2 ** -FRACTION_BITS;
const INTERPOLATED_BITS = 13;
const FIRST_ENTRY = 127 << (23 - INTERPOLATED_BITS);
const ENTRIES = (32 << (23 - INTERPOLATED_BITS)) + 2;
const END = 2 ** 32 - 302000;
const ROUNDS = 10;

const floats = new Float32Array(1);
const bits = new Uint32Array(floats.buffer);

/** The int32 look-up table [32770]: noise at float32 bit patterns from 1.0 to 2**32, in 2**-18. */
export const gumbelTable = makeTable();

function makeTable() {
  const table = new Int32Array(ENTRIES);
  for (let k = 0; k < ENTRIES; k++) {
    bits[0] = (k + FIRST_ENTRY) << INTERPOLATED_BITS;
    const x = Math.min(floats[0], END);
    table[k] = Math.round(-Math.log(-Math.log1p(-x / 2 ** 32)) * 2 ** FRACTION_BITS);
  }
  return table;
}

/**
 * The high 32 bits of the product of two unsigned 32-bit words.
 * @param {number} a
 * @param {number} b
 */
function multiplyHigh(a, b) {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const cross = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(cross / 0x10000)) >>> 0;
}

/**
 * Philox4x32-10 (Salmon et al., SC 2011) of the counter (c0, c1, 0, 0); its four words go into `out`.
 * @param {number} c0
 * @param {number} c1
 * @param {number} k0
 * @param {number} k1
 * @param {Uint32Array} out
 */
export function philox(c0, c1, k0, k1, out) {
  let c2 = 0;
  let c3 = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = multiplyHigh(0xd2511f53, c0);
    const high1 = multiplyHigh(0xcd9e8d57, c2);
    const low0 = Math.imul(0xd2511f53, c0);
    const low1 = Math.imul(0xcd9e8d57, c2);
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c1 = low1 >>> 0;
    c3 = low0 >>> 0;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** Noise of one seed and output index, drawn in blocks of four neighbouring tokens. */
export class GumbelNoise {
  /**
   * @param {bigint} seed
   * @param {number} index
   */
  constructor(seed, index) {
    this.k0 = Number(BigInt.asUintN(32, seed));
    this.k1 = Number(BigInt.asUintN(32, seed >> 32n));
    this.index = index >>> 0;
    this.block = -1;
    this.words = new Uint32Array(4);
  }

  /**
   * The noise of a token. Ascending tokens share the work of a block.
   * @param {number} token
   */
  at(token) {
    const block = token >>> 2;
    if (block !== this.block) {
      philox(block, this.index, this.k0, this.k1, this.words);
      this.block = block;
    }
    floats[0] = (this.words[token & 3] | 1) >>> 0;
    const entry = (bits[0] >>> INTERPOLATED_BITS) - FIRST_ENTRY;
    const left = gumbelTable[entry];
    const offset = ((gumbelTable[entry + 1] - left) * (bits[0] & ((1 << INTERPOLATED_BITS) - 1))) >> INTERPOLATED_BITS;
    return (left + offset) * FRACTION;
  }
}
