// Replays tests/vectors/draft_sessions.json with the browser agent's modules: node replay.mjs AGENT_FOLDER.
// Prints what differs, and exits with 1 if something does.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { isDeepStrictEqual } from "node:util";

const folder = pathToFileURL(`${process.argv[2]}/`);
const module = (name) => import(new URL(name, folder).href);
const [{ DraftSession }, { NgramIndex }, { Sampler }, { ForwardCosts, selectRequests }, { GumbelNoise, gumbelTable }] = await Promise.all(
  ["draft_session.js", "prompt_lookup.js", "sampler.js", "pace.js", "noise.js"].map(module),
);
const vectors = JSON.parse(readFileSync(new URL("draft_sessions.json", import.meta.url), "utf8"));

let differences = 0;
function check(what, found, expected) {
  if (isDeepStrictEqual(found, expected)) return;
  differences++;
  console.log(`${what}: ${JSON.stringify(found)}, not ${JSON.stringify(expected)}`);
}
const asLists = (drafts) => drafts.map((d) => [d.epoch, d.at, d.first, d.tokens, d.parents, d.confidence]);

vectors.sessions.forEach((recorded, n) => {
  const open = { session: 1, prompt: recorded.prompt, sampling: {}, maxTokens: recorded.max_tokens, committed: [], window: recorded.window, epoch: 0, eos: [49] };
  const session = new DraftSession(open, 1);
  session.minPath = recorded.min_path;
  recorded.steps.forEach((step, i) => {
    let drafts;
    if (step.commit) {
      const [at, tokens, window] = step.commit;
      drafts = session.commit({ session: 1, at, tokens, window });
    } else {
      check(`session ${n} step ${i} wanted`, session.candidates(4).map(({ id }) => id), step.wanted);
      const proposals = step.proposals.map(([tokens, parents, probabilities, complete]) => ({ tokens, parents, probabilities, complete }));
      drafts = session.addProposals(step.nodes.map((id, k) => [id, proposals[k]]));
    }
    check(`session ${n} step ${i}`, asLists(drafts), step.drafts);
  });
});

vectors.lookups.forEach(({ text, prompt, proposals }, n) => {
  const known = new NgramIndex();
  proposals.forEach(([tokens, probabilities], i) => {
    const found = known.propose({ context: text.slice(0, prompt + i), committed: prompt + i, index: i });
    check(`lookup ${n} at ${i}`, [found.tokens, found.probabilities], [tokens, probabilities]);
  });
});

vectors.samplings.forEach(({ columns, logits, context, index, seed, sampling, expected }, n) => {
  const request = {
    context,
    index,
    sampling: {
      temperature: sampling.temperature,
      topK: sampling.top_k ?? 0,
      topP: sampling.top_p ?? 1,
      minP: sampling.min_p ?? 0,
      seed: BigInt(seed),
      frequencyPenalty: sampling.frequency_penalty ?? 0,
      presencePenalty: sampling.presence_penalty ?? 0,
      repetitionPenalty: sampling.repetition_penalty ?? 1,
      logitBias: new Map(Object.entries(sampling.logit_bias ?? {}).map(([token, bias]) => [Number(token), bias])),
    },
  };
  const found = new Sampler(Uint32Array.from(columns)).propose(Float32Array.from(logits), request);
  // Siblings below 3 % are left out; probabilities are float32 in one and float64 in the other.
  const kept = expected[1].filter((probability, i) => i === 0 || probability >= 0.03).length;
  check(`sampling ${n}`, found.tokens, expected[0].slice(0, kept));
  found.probabilities.forEach((p, i) => {
    if (Math.abs(p - expected[1][i]) > 1e-4) check(`sampling ${n} probability ${i}`, p, expected[1][i]);
  });
});

vectors.selections.forEach(({ times, candidates, selected }, n) => {
  const costs = new ForwardCosts();
  for (const [requests, seconds] of times) costs.record(requests, seconds);
  const named = new Map(candidates.map(([session, found]) => [session, found.map(([mass, id]) => ({ mass, id }))]));
  const found = selectRequests(named, (requests) => costs.seconds(requests));
  check(`selection ${n}`, found.map(({ session, id }) => [session, id]), selected);
});

const floats = new Float32Array(1);
for (const [seed, index, token, bits] of vectors.noise) {
  floats[0] = new GumbelNoise(BigInt(seed), index).at(token);
  check(`noise ${seed} ${index} ${token}`, new Uint32Array(floats.buffer)[0], bits);
}
check("the noise's table", Array.from(gumbelTable.slice(0, 2)), [5814540, 5814284]);

process.exit(differences ? 1 : 0);
