// A draft model's files: fetched once, checked by their SHA-256, and kept by the browser.

const CACHE = "edgedraft-drafts";
const MAX_BYTES = 1 << 30;

/**
 * @typedef {{name: string, bytes: number, sha256: string, url: string}} DraftFile
 * @typedef {(loaded: number, total: number) => void} OnProgress
 */

/** A file could not be fetched; another try may succeed. */
export class FetchFailed extends Error {}

/**
 * The bytes of a file. Throws an Error when they are not those of its checksum, and FetchFailed.
 * @param {DraftFile} file
 * @param {string} key
 * @param {OnProgress} onProgress
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
export async function loadFile(file, key, onProgress) {
  if (file.bytes > MAX_BYTES) throw new Error(`${file.name} is larger than drafts may be`);
  const cache = await openCache();
  const kept = await cache?.match(file.url);
  if (cache && kept) {
    const bytes = new Uint8Array(await kept.arrayBuffer());
    if ((await checksum(bytes)) === file.sha256) {
      onProgress(file.bytes, file.bytes);
      return bytes;
    }
    await cache.delete(file.url);
  }
  const bytes = await download(file, key, onProgress);
  if ((await checksum(bytes)) !== file.sha256) throw new Error(`${file.name} arrived damaged`);
  try {
    await cache?.put(file.url, new Response(bytes));
  } catch {
    // without room for it, it is fetched again the next time
  }
  return bytes;
}

/**
 * @param {DraftFile} file
 * @param {string} key
 * @param {OnProgress} onProgress
 */
async function download(file, key, onProgress) {
  const bytes = new Uint8Array(file.bytes);
  let loaded = 0;
  try {
    const response = await fetch(file.url, { headers: { authorization: `Bearer ${key}` }, cache: "no-store" });
    if (!response.ok || !response.body) throw new Error(`HTTP ${response.status}`);
    for (let reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      if (loaded + value.length > file.bytes) throw new Error("it is longer than it should be");
      bytes.set(value, loaded);
      loaded += value.length;
      onProgress(loaded, file.bytes);
    }
    if (loaded !== file.bytes) throw new Error("it is shorter than it should be");
  } catch (error) {
    throw new FetchFailed(`${file.name} cannot be fetched: ${error instanceof Error ? error.message : error}`);
  }
  return bytes;
}

/**
 * Deletes what is kept of all but these files.
 * @param {DraftFile[]} files
 */
export async function forgetOthers(files) {
  const cache = await openCache();
  if (!cache) return;
  const urls = new Set(files.map(({ url }) => new URL(url, self.location.href).href));
  for (const request of await cache.keys()) if (!urls.has(request.url)) await cache.delete(request);
}

/** What the browser keeps, or null where it keeps nothing for pages. */
async function openCache() {
  return caches.open(CACHE).catch(() => null);
}

/** @param {Uint8Array<ArrayBuffer>} bytes */
async function checksum(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
