// The dashboard: asks for a key, polls /dashboard/data with it and shows the figures.
// The key is kept in sessionStorage and sent in one header. Names that agents chose are inserted as text, never as HTML.

import { draw } from "/dashboard/charts.js";

const KEY = "edgedraft.key", THEME = "edgedraft.theme";
const POLL_MS = 2000; // while the page is visible
const MONEY_POLL_MS = 30000;
const id = (name) => document.getElementById(name);
const NO_VALUE = "–";

let latest = null, timer = 0, running = 0, moneyAt = -Infinity;

function make(name, className, ...inside) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...inside);
  return element;
}

// ---- formatting

const integer = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`;
const sum = (values) => values.reduce((total, value) => total + value, 0);

function span(seconds) {
  if (seconds === null || seconds === undefined) return [NO_VALUE, ""];
  if (seconds < 0.1) return [(1000 * seconds).toFixed(1), "ms"];
  if (seconds < 1) return [(1000 * seconds).toFixed(0), "ms"];
  return [seconds.toFixed(seconds < 10 ? 2 : 1), "s"];
}

function ago(seconds) {
  for (const [size, name] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
    const count = Math.floor(seconds / size);
    if (count) return `${count} ${name}${count > 1 ? "s" : ""}`;
  }
  return "under a minute";
}

function value(name, [number, unit], note) {
  id(name).replaceChildren(number, ...(unit ? [make("small", "", unit)] : []));
  id(`${name}-note`).textContent = note;
}

// ---- sections of the page

function show(data) {
  const steps = data.live.steps, seconds = data.live.step_seconds;
  const edge = sum(steps.edge), own = sum(steps.own), plain = sum(steps.plain);
  const tokens = edge + own + plain, forwards = sum(steps.forwards);

  id("edge-share").textContent = tokens ? percent(edge / tokens) : NO_VALUE;
  id("lead-text").textContent = tokens
    ? `of ${integer.format(tokens)} tokens in the last five minutes. The verifier ran ${integer.format(forwards)} ` +
      `forwards for them, ${percent(1 - forwards / tokens)} fewer than one per token.`
    : "Nothing was generated in the last five minutes.";
  const parts = [["edge", "Desktops drafted", edge], ["own", "Verifier drafted", own], ["plain", "Without a draft", plain]];
  id("mix-strip").replaceChildren(...parts.filter((part) => part[2]).map(([kind, , count]) => {
    const piece = make("span", kind);
    piece.style.flexGrow = count;
    return piece;
  }));
  id("mix-legend").replaceChildren(...parts.map(([kind, text, count]) =>
    make("div", "", make("dt", kind, text), make("dd", "", tokens ? percent(count / tokens) : NO_VALUE))));

  const modes = data.live.requests, requests = modes.edge + modes.mixed + modes.datacenter;
  id("modes").replaceChildren(...[["edge", "With a desktop", modes.edge], ["part", "Partly", modes.mixed],
    ["plain", "Datacenter only", modes.datacenter]].map(([kind, text, count]) => {
    const bar = make("span", kind);
    bar.style.width = `${requests ? (100 * count) / requests : 0}%`;
    const track = make("dd", "track", bar);
    track.setAttribute("aria-hidden", "true");
    return make("div", "", make("dt", "", text), make("dd", "", integer.format(count)), track);
  }));

  const drafted = sum(steps.drafted), accepted = sum(steps.accepted), drafts = sum(steps.drafts);
  value("acceptance", drafted ? [(100 * accepted / drafted).toFixed(0), "%"] : [NO_VALUE, ""],
    drafted ? `of ${short.format(drafted)} drafted nodes` : "no drafts checked");
  value("yield", forwards ? [(tokens / forwards).toFixed(2), ""] : [NO_VALUE, ""],
    drafts ? `${(1 + accepted / drafts).toFixed(2)} with a draft` : "none with a draft");
  value("first", span(data.live.first_text.p50), tail(data.live.first_text));
  value("between", span(data.live.per_token.p50), tail(data.live.per_token));

  const rate = (values) => values.map((count, i) =>
    count / (i === values.length - 1 ? Math.max(1, data.live.into_step) : seconds));
  const before = steps.edge.length - 2; // the latest complete interval
  const now = (steps.edge[before] + steps.own[before] + steps.plain[before]) / seconds;
  id("rate-now").textContent = now ? `${now.toFixed(now < 10 ? 1 : 0)} now` : "";
  const made = [steps.plain, steps.own, steps.edge];
  draw(id("chart-rate"), {
    series: made.map((values) => average(rate(values)).slice(0, -1)), kinds: ["plain", "own", "edge"], stacked: true, seconds,
    label: `Tokens per second over five minutes: ${now.toFixed(0)} now`, tick: (number) => short.format(number),
    empty: "Nothing generated in this time",
  });
  const acceptance = smooth(steps.accepted, steps.drafted);
  const last = [...acceptance].reverse().find((share) => share !== null);
  id("accept-now").textContent = last === undefined ? "" : `${percent(last)} lately`;
  draw(id("chart-accept"), {
    series: [acceptance], kinds: ["edge"], max: 1, seconds,
    label: `Share of drafted nodes accepted: ${last === undefined ? "none" : percent(last)} lately`, tick: percent,
    empty: "No draft checked in this time",
  });
  const total = steps.edge.map((_, i) => steps.edge[i] + steps.own[i] + steps.plain[i]);
  const cost = smooth(steps.seconds, total);
  const costLast = [...cost].reverse().find((one) => one !== null);
  id("cost-now").textContent = costLast === undefined ? "" : `${span(costLast).join(" ")} lately`;
  draw(id("chart-cost"), {
    series: [cost], kinds: ["plain"], seconds,
    label: `Verifier time per token: ${costLast === undefined ? "none" : span(costLast).join(" ")} lately`,
    tick: (number) => (number ? `${short.format(number < 1 ? 1000 * number : number)} ${number < 1 ? "ms" : "s"}` : "0"),
    empty: "Nothing generated in this time",
  });

  showAgents(data);
  showVerifiers(data.verifiers);
  id("sees").textContent = data.sees === "everybody"
    ? "Figures of all owners: this key has the admin scope."
    : `Figures of ${data.sees}.`;
}

const tail = (quantiles) => quantiles.p95 === null ? "no requests" : `median; 95th ${span(quantiles.p95).join(" ")}`;

// Ratios over six intervals (half a minute), null where there is nothing to divide by.
function smooth(above, below) {
  return above.map((_, i) => {
    const from = Math.max(0, i - 5);
    const base = sum(below.slice(from, i + 1));
    return base ? sum(above.slice(from, i + 1)) / base : null;
  });
}

// Weighted mean of each interval and its neighbours (1:2:1).
function average(values) {
  const at = (i) => values[Math.max(0, Math.min(values.length - 1, i))];
  return values.map((value, i) => (at(i - 1) + 2 * value + at(i + 1)) / 4);
}

function showAgents(data) {
  const more = data.agents_attached - data.agents.length;
  id("agents-count").textContent = data.agents_attached ? `${data.agents_attached}` : "";
  if (!data.agents.length) {
    const text = make("p", "empty", "No desktop is attached; the datacenter decodes alone. Attach one with ",
      make("code", "", `edgedraft attach ${location.origin}`), ".");
    id("agents").replaceChildren(text);
    return;
  }
  const titles = ["Agent", "Sessions", "Accepted", "First node after", "Tokens accepted", "Attached for"];
  const head = make("tr", "", ...titles.map((title, i) => {
    const cell = make("th", i > 2 ? "number" : "", title);
    cell.scope = "col";
    return cell;
  }));
  const rows = data.agents.map((agent) => {
    const owner = agent.owner === undefined ? "" : ` · ${agent.tenant === "default" ? "" : `${agent.tenant} / `}${agent.owner}`;
    const share = agent.checked ? agent.accepted / agent.checked : null;
    const bar = make("span");
    bar.style.width = `${100 * (share ?? 0)}%`;
    const track = make("span", "track", bar);
    track.setAttribute("aria-hidden", "true");
    const slots = make("span", "slots");
    if (agent.max_sessions <= 16) {
      for (let i = 0; i < agent.max_sessions; i++) slots.append(make("i", i < agent.sessions ? "on" : ""));
    }
    slots.append(make("b", "", `${agent.sessions} of ${agent.max_sessions}`));
    const cells = [
      ["lead-cell", make("span", "who", agent.name || agent.id), make("span", "what", `${agent.device} · ${agent.drafter || "prompt lookup"}${owner}`)],
      ["", slots],
      ["", make("span", "meter", track, share === null ? NO_VALUE : percent(share))],
      ["number", span(agent.answer).join(" ")],
      ["number", short.format(agent.accepted)],
      ["number", ago(data.now - agent.since)],
    ];
    return make("tr", "", ...cells.map(([kind, ...inside], i) => {
      const cell = make("td", kind, ...inside);
      cell.dataset.label = titles[i];
      return cell;
    }));
  });
  const table = make("table", "", make("thead", "", head), make("tbody", "", ...rows));
  table.setAttribute("aria-labelledby", "agents-title");
  id("agents").replaceChildren(table, ...(more ? [make("p", "empty", `and ${more} more`)] : []));
}

function showVerifiers(verifiers) {
  id("serving").hidden = !verifiers;
  if (!verifiers) return;
  id("verifiers").replaceChildren(...(verifiers.length ? verifiers : [null]).map((one) => one
    ? make("li", "", make("b", "", one.model), make("span", "", `${one.running} of ${one.max_sessions} sessions`))
    : make("li", "empty", "No verifier is connected: requests wait.")));
}

function showMoney(money) {
  id("money").hidden = !money.requests;
  if (!money.requests) return;
  const amount = (text) => {
    const number = Number(text);
    return number.toLocaleString("en", { style: "currency", currency: money.currency || "USD",
      minimumFractionDigits: 2, maximumFractionDigits: Math.abs(number) < 1 ? 4 : 2 });
  };
  const saved = Number(money.saved) < 0
    ? ["", "Cost more than datacenter only", amount(-money.saved)] : ["saved", "Saved", amount(money.saved)];
  const entries = [saved, ["", "Cost", amount(money.cost)],
    ["", "Datacenter only", amount(money.datacenter_only_cost)], ["", "Credited to desktops", amount(money.credit)],
    ["", "Requests", short.format(money.requests)], ["", "Tokens written", short.format(money.output_tokens)]];
  id("sums").replaceChildren(...entries.map(([kind, title, text]) => make("div", kind, make("dt", "", title), make("dd", "", text))));
}

// ---- polling

async function poll() {
  const key = sessionStorage.getItem(KEY), mine = ++running;
  clearTimeout(timer);
  if (!key) return askForKey("");
  let response = null;
  try {
    response = await fetch("/dashboard/data", { headers: { authorization: `Bearer ${key}` }, cache: "no-store" });
    if (response.ok) latest = await response.json();
  } catch {
    response = null; // the gateway cannot be reached: the last figures stay
  }
  if (mine !== running) return undefined;
  if (response && (response.status === 401 || response.status === 403)) {
    sessionStorage.removeItem(KEY);
    return askForKey("This gateway does not know that key.");
  }
  const fresh = Boolean(response && response.ok);
  id("state").className = fresh ? "state" : "state stale";
  id("state").textContent = fresh ? status(latest) : "No answer from the gateway";
  if (latest) {
    id("enter").hidden = true;
    id("leave").hidden = false;
    id("figures").hidden = false;
    if (fresh) show(latest);
    if (fresh && performance.now() - moneyAt > MONEY_POLL_MS) pollMoney(key);
  }
  timer = setTimeout(poll, fresh ? POLL_MS : 3 * POLL_MS);
  return undefined;
}

// Totals of the ledger; after a failure the last ones stay.
async function pollMoney(key) {
  moneyAt = performance.now();
  try {
    const response = await fetch("/dashboard/money", { headers: { authorization: `Bearer ${key}` }, cache: "no-store" });
    if (response.ok && key === sessionStorage.getItem(KEY)) showMoney(await response.json());
  } catch { /* the next poll shows whether the gateway can be reached */ }
}

const status = (data) => data.models.length ? `Live · ${data.models.join(", ")}` : "No verifier is connected";

function askForKey(error) {
  latest = null;
  moneyAt = -Infinity;
  id("money").hidden = true;
  id("figures").hidden = true;
  id("leave").hidden = true;
  id("sees").textContent = "";
  id("state").textContent = "";
  id("enter").hidden = false;
  id("error").textContent = error;
  id("key").focus();
}

id("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = id("key").value.trim();
  id("key").value = "";
  if (!/^[\x21-\x7e]+$/.test(key)) return askForKey("That is not a key: it has characters that no key has.");
  sessionStorage.setItem(KEY, key);
  id("error").textContent = "";
  return poll();
});

id("leave").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  running++;
  clearTimeout(timer);
  askForKey("");
});

id("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  sessionStorage.setItem(THEME, document.documentElement.dataset.theme);
  redraw();
});

document.addEventListener("visibilitychange", () => document.hidden ? clearTimeout(timer) : poll());
// Charts are canvases: they do not follow the page's size and colours by themselves.
const redraw = () => latest && show(latest);
addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

const theme = sessionStorage.getItem(THEME);
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
poll();
