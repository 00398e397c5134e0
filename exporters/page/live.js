// Asking the agent, following its events, and saying so when it does not answer.

const POLL = 2000; // milliseconds between two questions for the status; five times that with very many VIPs
const PATIENCE = 5000; // milliseconds after which a question is given up
const SILENCE_MAX = 40000; // a stream says something every 15 s
const SOON = 120; // milliseconds in which events are gathered before the status is asked again

let status = null;
let life = null; // this node's incarnation
let asOf = null; // when the status was told, agent's time
let lost = null;
let streaming = false;
let asking = false;
let again = false;
let timer = 0;

async function ask(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store", headers: { Accept: "application/json" } });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  const date = Date.parse(response.headers.get("Date") || "");
  // The header has whole seconds: smaller differences are noise.
  if (Number.isFinite(date)) ahead = Math.abs(date - Date.now()) > 2000 ? date - Date.now() : 0;
  return response.json();
}

async function catchUp(from) {
  for (let since = from; ; ) {
    const answer = await ask(`api/v1/events?since=${since}`);
    // Only the newest are of use to a page that has just been opened.
    if (since === 0 && answer.last - answer.first > 1500) {
      since = answer.last - 1000;
      continue;
    }
    answer.events.forEach(learn);
    if (!answer.events.length || past.last >= answer.last) return;
    since = past.last;
  }
}

async function refresh() {
  clearTimeout(timer);
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  try {
    const told = await ask("api/v1/status");
    const mine = told.members.find((m) => m.name === told.node);
    const born = mine ? mine.incarnation : null;
    if (status && born !== life) forget();
    const fresh = status === null || born !== life;
    life = born;
    status = told;
    asOf = now();
    lost = null;
    if (fresh || !streaming) await catchUp(past.last);
    if (fresh) follow();
  } catch (error) {
    if (lost === null) lost = asOf === null ? now() : asOf;
  }
  asking = false;
  render();
  const pause = again ? SOON : POLL * (status && status.vips.length > 3000 ? 5 : 1);
  again = false;
  timer = setTimeout(refresh, document.hidden && lost === null ? 5 * pause : pause);
}

function soon() {
  if (asking) again = true;
  else {
    clearTimeout(timer);
    timer = setTimeout(refresh, SOON);
  }
}

let stop = null; // ends the stream that is open

/** Server-sent events, read by hand: EventSource cannot tell a silent link from a dead one. */
async function follow() {
  if (stop) stop.abort();
  const mine = (stop = new AbortController());
  for (let failures = 0; stop === mine; failures++) {
    const silence = { timer: 0 };
    const alive = () => {
      clearTimeout(silence.timer);
      silence.timer = setTimeout(() => reading.abort(), SILENCE_MAX);
    };
    const reading = new AbortController();
    mine.signal.addEventListener("abort", () => reading.abort(), { once: true });
    try {
      alive();
      const response = await fetch("api/v1/events", { signal: reading.signal, cache: "no-store", headers: { Accept: "text/event-stream", "Last-Event-ID": String(past.last) } });
      if (!response.ok) throw new Error(String(response.status));
      streaming = true;
      failures = 0;
      await read(response.body.getReader(), alive);
    } catch (error) {
      // Told by the contact line as soon as the status cannot be had either.
    }
    clearTimeout(silence.timer);
    streaming = false;
    if (stop !== mine) return;
    soon();
    await new Promise((resolve) => setTimeout(resolve, Math.min(5000, 500 * 2 ** failures)));
  }
}

async function read(reader, alive) {
  const decoder = new TextDecoder();
  for (let rest = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    alive();
    const pieces = (rest + decoder.decode(value, { stream: true })).split("\n\n");
    rest = pieces.pop();
    let news = false;
    for (const piece of pieces) {
      const data = piece.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data) {
        learn(JSON.parse(data));
        news = true;
      }
    }
    if (news) {
      render();
      soon();
    }
  }
}

function showContact() {
  const state = lost !== null ? "lost" : status === null ? "connecting" : "live";
  mark($("contact"), "data-contact", state);
  write($("contact-text"), state === "lost" ? `stale since ${clock(lost)}` : state === "live" ? (streaming ? "live" : "live, by polling") : "connecting");
  document.body.classList.toggle("stale", state === "lost");
}

function render() {
  showContact();
  const told = status !== null && (status.state === "GATHER" || (past.gathering && Date.parse(past.gathering.time) > asOf));
  const gathering = told ? past.gathering : null;
  const suspects = status !== null && status.view === null && !gathering ? [] : past.suspects;
  const suspected = new Set(suspects);
  showNotices(status, { gathering, suspects }, lost);
  if (status === null) return;
  showHead(status, gathering);
  showFigures(status, suspected);
  showHoldings(status, suspected);
  showMembers(status, suspects);
  showSends(status);
  showStory(status);
  showFacts(status);
  showLeases(status);
}

$("holdings-box").addEventListener("scroll", () => status && showWindow(status.node), { passive: true });
$("find").addEventListener("input", (event) => {
  chosen.words = event.target.value.trim();
  $("holdings-box").scrollTop = 0;
  if (status) render();
});
$("older").addEventListener("click", () => {
  past.shown += PAGE_OF_STORY;
  showStory(status);
});
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(render, 1000);
refresh();
