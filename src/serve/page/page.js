// SPDX-License-Identifier: Apache-2.0
// The page at /: a conversation with /v1/chat/completions, streamed, and what /metrics says every second. What models write
// becomes text nodes only. The conversation lives in this tab and nowhere else.
"use strict";

const el = id => document.getElementById(id);
const messages = []; // as the API wants them; the system prompt is put before them when they are sent
let answer = null; // the one that streams: {item, text, abort, ...}

// --- settings ------------------------------------------------------------------------------------

const numbers = ["temperature", "top_p", "max_tokens"];
const kept = ["system", ...numbers, "seed", "key"];

function headers() {
  const key = el("key").value.trim();
  return key ? {authorization: `Bearer ${key}`} : {};
}

function requestBody() {
  const system = el("system").value;
  const body = {
    messages: system.trim() ? [{role: "system", content: system}, ...messages] : messages,
    stream: true,
    stream_options: {include_usage: true},
  };
  if (model) body.model = model;
  for (const name of numbers) {
    const field = el(name);
    if (field.value !== "" && field.checkValidity()) body[name] = Number(field.value);
  }
  const seed = el("seed").value.trim();
  // 64 bits: more than a Number holds
  const tail = /^-?\d+$/.test(seed) ? `,"seed":${seed}}` : "}";
  return JSON.stringify(body).slice(0, -1) + tail;
}

for (const id of kept) {
  el(id).value = sessionStorage.getItem(id) ?? "";
  el(id).addEventListener("change", () => {
    sessionStorage.setItem(id, el(id).value);
    if (id === "key") askModel();
  });
}

function showSettings(shown) {
  el("settings").hidden = !shown;
  el("toggle").setAttribute("aria-expanded", String(shown));
}

// --- messages ------------------------------------------------------------------------------------

function addItem(role, text) {
  const item = document.createElement("li");
  const p = document.createElement("p");
  const node = document.createTextNode(text);
  item.className = role;
  item.setAttribute("aria-label", role === "user" ? "You" : "Answer");
  p.append(node);
  item.append(p);
  el("log").append(item);
  el("empty").hidden = true;
  return {item, node};
}

function addLine(item, className, text) {
  const p = document.createElement("p");
  p.className = className;
  p.textContent = text;
  if (className === "error") p.setAttribute("role", "alert");
  item.append(p);
  return p;
}

// Follows the end unless the reader scrolled away from it.
function atEnd() {
  const s = el("scroll");
  return s.scrollHeight - s.scrollTop - s.clientHeight < 60;
}
function toEnd() {
  el("scroll").scrollTop = el("scroll").scrollHeight;
}

// --- one answer ----------------------------------------------------------------------------------

function perSecond(tokens, a) {
  const s = ((a.last ?? a.first) - a.first) / 1000;
  return tokens > 1 && s > 0 ? (tokens - 1) / s : 0;
}
function figure(v) {
  return v >= 100 ? v.toFixed(0) : v >= 10 ? v.toFixed(1) : v.toFixed(2);
}

// Text is drawn once a frame at most, and when drawing takes long (a long answer is laid out as a whole) less often, so that most
// of the time is left for the reader's keys.
function draw(a) {
  a.drawing = false;
  if (!a.pending) return;
  const begun = performance.now();
  const follow = atEnd();
  a.node.appendData(a.pending);
  a.pending = "";
  el("speed").textContent = a.chunks > 1 ? `${figure(perSecond(a.chunks, a))} tokens/s` : "";
  if (follow) toEnd();
  a.cost = performance.now() - begun;
}
function drawSoon(a) {
  if (a.drawing) return;
  a.drawing = true;
  setTimeout(() => requestAnimationFrame(() => draw(a)), 4 * (a.cost ?? 0));
}

function takeChunk(a, chunk) {
  if (chunk.error) throw new Error(chunk.error.message ?? "the server failed");
  if (chunk.usage) a.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  if (choice.finish_reason) a.finish = choice.finish_reason;
  const text = choice.delta?.content;
  if (!text) return;
  a.last = performance.now();
  a.first ??= a.last;
  a.chunks++;
  a.text += text;
  a.pending += text;
  drawSoon(a);
}

async function readEvents(a, body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) throw new Error("the answer broke off");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      a.seed ??= /"seed":(-?\d+)/.exec(data)?.[1];
      takeChunk(a, JSON.parse(data));
    }
  }
}

async function refusal(response) {
  let said = "";
  try {
    said = (await response.json()).error.message;
  } catch {
    said = response.statusText;
  }
  if (response.status === 401) {
    showSettings(true);
    el("key").focus();
  }
  return new Error(`${response.status}: ${said}`);
}

async function ask(a) {
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: {"content-type": "application/json", ...headers()},
    body: requestBody(),
    signal: a.abort.signal,
  });
  if (!response.ok) throw await refusal(response);
  await readEvents(a, response.body);
}

function about(a) {
  const tokens = a.usage?.completion_tokens ?? a.chunks;
  const parts = [`${tokens} token${tokens === 1 ? "" : "s"}`];
  if (perSecond(tokens, a)) parts.push(`${figure(perSecond(tokens, a))} tokens/s`);
  if (a.first) parts.push(`first after ${figure(a.first - a.begun)} ms`);
  const cached = a.usage?.prompt_tokens_details?.cached_tokens;
  if (a.usage) parts.push(`prompt ${a.usage.prompt_tokens}${cached ? ` (${cached} cached)` : ""}`);
  if (a.seed !== undefined) parts.push(`seed ${a.seed}`);
  if (a.stopped) parts.push("stopped");
  else if (a.finish === "length") parts.push("cut at max tokens");
  return parts.join("  ·  ");
}

function setBusy(busy) {
  el("send").hidden = busy;
  el("stop").hidden = !busy;
  el("log").setAttribute("aria-busy", String(busy));
}

async function send(text) {
  messages.push({role: "user", content: text});
  addItem("user", text);
  const a = {...addItem("assistant streaming", ""), abort: new AbortController(), begun: performance.now(), text: "", pending: "", chunks: 0};
  answer = a;
  setBusy(true);
  toEnd();
  let failed = null;
  try {
    await ask(a);
  } catch (e) {
    if (a.stopped) failed = null;
    else failed = e instanceof TypeError ? new Error("the server cannot be reached") : e;
  }
  if (answer !== a) return; // a new chat began
  draw(a);
  answer = null;
  a.item.classList.remove("streaming");
  // what was said stays, so that the next question is understood; a question without an answer may be asked again
  if (a.text) messages.push({role: "assistant", content: a.text});
  else messages.pop();
  if (a.text || !failed) addLine(a.item, "about", about(a));
  if (failed) addLine(a.item, "error", failed.message);
  if (!a.text) el("input").value ||= text;
  el("speed").textContent = "";
  setBusy(false);
  toEnd();
  ready();
}

function stop() {
  if (!answer) return;
  answer.stopped = true;
  answer.abort.abort();
}

// --- the form ------------------------------------------------------------------------------------

function ready() {
  el("send").disabled = el("input").value.trim() === "";
}

function submit() {
  const text = el("input").value.trim();
  if (answer || !text) return;
  el("input").value = "";
  ready();
  el("input").focus();
  send(text);
}

el("form").addEventListener("submit", e => {
  e.preventDefault();
  submit();
});
el("input").addEventListener("input", ready);
el("input").addEventListener("keydown", e => {
  if (e.key !== "Enter" || e.shiftKey || e.isComposing) return;
  e.preventDefault();
  submit();
});
el("stop").addEventListener("click", () => {
  stop();
  el("input").focus();
});
document.addEventListener("keydown", e => {
  if (e.key === "Escape") stop();
});
el("examples").addEventListener("click", e => {
  if (e.target instanceof HTMLButtonElement && !answer) send(e.target.textContent);
});
el("new").addEventListener("click", () => {
  stop();
  answer = null;
  messages.length = 0;
  el("log").replaceChildren();
  el("empty").hidden = false;
  el("speed").textContent = "";
  setBusy(false);
  el("input").focus();
});
el("toggle").addEventListener("click", () => showSettings(el("settings").hidden));

// --- the server ----------------------------------------------------------------------------------

let model = "";
async function askModel() {
  try {
    const response = await fetch("v1/models", {headers: headers()});
    if (response.ok) model = (await response.json()).data[0].id;
  } catch {
    // the strip says whether the server is there
  }
  el("model").textContent = model;
  if (model) document.title = `${model} · Supernode`;
}

// The sum over all labels of each metric of ours, by name without the prefix.
function parseMetrics(text) {
  const sums = new Map();
  for (const line of text.split("\n")) {
    const m = /^supernode_(\w+)(?:\{.*\})? (\S+)/.exec(line);
    if (m) sums.set(m[1], (sums.get(m[1]) ?? 0) + Number(m[2]));
  }
  return sums;
}

let before = null; // of the last look, while tokens came: {sum, count, at}
let tpot = null;
function showMetrics(sums) {
  const show = (id, v) => { el(id).textContent = v === undefined ? "–" : v; };
  const kv = sums.get("kv_cache_usage_perc");
  show("running", sums.get("num_requests_running"));
  show("waiting", sums.get("num_requests_waiting"));
  show("kv", kv === undefined ? kv : `${(kv * 100).toFixed(kv < 0.0995 ? 1 : 0)} %`);
  el("kv-meter").value = (kv ?? 0) * 100;
  const sum = sums.get("inter_token_latency_seconds_sum"), count = sums.get("inter_token_latency_seconds_count");
  const now = performance.now();
  if (before && count > before.count) tpot = {ms: (sum - before.sum) / (count - before.count) * 1000, at: now};
  before = {sum, count};
  show("tpot", tpot && now - tpot.at < 10000 ? `${figure(tpot.ms)} ms` : undefined);
}

// --- the cluster ---------------------------------------------------------------------------------

function make(tag, className, ...parts) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  e.append(...parts);
  return e;
}
function percent(part, of) {
  return of > 0 ? 100 * part / of : 0;
}
function bytes(v) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let i = 0;
  for (; v >= 1000 && i < units.length - 1; i++) v /= 1000;
  return `${i ? figure(v) : v} ${units[i]}`;
}
function bar(part, of, what) {
  const b = make("div", "bar", make("i"));
  b.firstChild.style.width = `${Math.min(100, percent(part, of))}%`;
  b.title = what;
  return b;
}

// What stands under a member's name: what it does, and what it found or took over.
function aboutMember(m) {
  const l = m.load;
  if (m.role === "pool") {
    const ssd = l.bytes_ssd_max ? `, SSD ${bytes(l.bytes_ssd)} of ${bytes(l.bytes_ssd_max)}` : "";
    return `${bytes(l.bytes_dram)} of ${bytes(l.bytes_dram_max)}${ssd}, ${l.pages_used} blocks`;
  }
  const work = `${l.running} running, ${l.waiting} waiting`;
  if (m.role === "prefill") {
    const hits = percent(l.prompt_cached, l.prompt_tokens), pool = percent(l.prompt_from_pool, l.prompt_tokens);
    return `${work}, hits ${hits.toFixed(0)} % (pool ${pool.toFixed(0)} %), ${l.lent} lent`;
  }
  const tpot = l.tpot_us_p50 ? `, TPOT ${figure(l.tpot_us_p50 / 1000)} ms` : "";
  return `${work}${tpot}, ${l.pulls} taken over`;
}

function memberItem(m) {
  const l = m.load;
  const used = m.role === "pool" ? bar(l.bytes_dram, l.bytes_dram_max, "DRAM in use") : bar(l.pages_used, l.pages, "KV pages in use");
  const rate = m.role === "pool" ? "" : `${figure(m.role === "prefill" ? m.prompt_rate : m.token_rate)} tok/s`;
  const item = make("li", m.state === "ready" ? "" : "off", make("span", "name", m.name), used, make("span", "rate", rate));
  item.append(make("span", "more", `${m.state === "ready" ? "" : `${m.state}: `}${aboutMember(m)}`));
  item.title = `${m.name}: ${m.role}, ${m.state}, epoch ${m.epoch}, pid ${m.pid}`;
  return item;
}

function showCluster(c) {
  el("members").replaceChildren(...["prefill", "decode", "pool"].map(role => {
    const members = c.members.filter(m => m.role === role);
    const ready = members.filter(m => m.state === "ready").length;
    const head = make("h2", "", role, make("span", "", ` ${ready === members.length ? ready : `${ready} of ${members.length}`} ready`));
    return make("section", "", head, make("ul", "", ...members.map(memberItem)));
  }));
  const facts = [["requests/s", figure(c.request_rate)], ["queued", c.queued], ["prefilling", c.prefilling], ["decoding", c.decoding],
    ["hand-overs", c.handovers], ["moved", c.moved], ["failed", c.failed], ["epoch", c.epoch]];
  el("cluster-facts").replaceChildren(...facts.map(([name, v]) => make("div", "", make("dt", "", name), make("dd", "", String(v)))));
  el("cluster-events").replaceChildren(...c.events.slice(0, 8).map(e => {
    const time = make("time", "", new Date(e.at_s * 1000).toLocaleTimeString([], {hour12: false}));
    return make("li", "", time, e.text);
  }));
}

// A router's metrics tell that there is a cluster to look at.
async function lookAtCluster(there) {
  el("cluster-toggle").hidden = !there;
  if (!there) el("cluster").hidden = true;
  if (el("cluster").hidden) return;
  const response = await fetch("cluster", {headers: headers()});
  if (response.ok) showCluster(await response.json());
}

el("cluster-toggle").addEventListener("click", () => {
  const hidden = el("cluster").hidden = !el("cluster").hidden;
  el("cluster-toggle").setAttribute("aria-expanded", String(!hidden));
  lookAtCluster(true).catch(() => {}); // the strip says that the server is gone
});

function showHealth(text, bad) {
  el("health").textContent = text;
  el("health").className = bad ? "bad" : "";
}

// Where there are no metrics the strip gives way to one word of /health.
let metrics = true;
async function look() {
  try {
    const response = await fetch(metrics ? "metrics" : "health", {headers: headers()});
    if (metrics && response.ok) {
      const sums = parseMetrics(await response.text());
      showMetrics(sums);
      await lookAtCluster(sums.has("cluster_epoch"));
    }
    if (response.status === 404) metrics = false;
    if (metrics) showHealth(response.ok ? "" : `metrics: ${response.status}`, !response.ok);
    else if (response.status !== 404) showHealth(response.ok ? "ready" : "not ready", !response.ok);
    if (!model) askModel();
  } catch {
    showHealth("server not reachable", true);
  }
  el("strip").hidden = !metrics;
}

async function watch() {
  if (!document.hidden) await look();
  setTimeout(watch, 1000);
}

const wide = matchMedia("(min-width: 64rem)");
wide.addEventListener("change", () => showSettings(wide.matches));
showSettings(wide.matches);
ready();
askModel();
watch();
