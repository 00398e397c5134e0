// The time line: single events put together to what a person calls one occurrence.

const BELONGS = 5; // seconds in which what follows a view change or a round is counted to it
const PAGE_OF_STORY = 25;

const past = { entries: [], current: null, last: 0, shown: PAGE_OF_STORY, gathering: null, suspects: [], views: [] };

const SILENT = new Set([
  "state_changed", "owners_changed", "decided", "acquire_started", "release_started", "announced", "arp_sent", "member_heard",
  "join_heard", "heartbeat_sent", "heartbeat_received", "arp_cache_changed", "standings_changed",
]);

/** Causes of acquisitions that no view change hurries. */
const UNHURRIED = new Set(["start", "balance", "move", "prefer", "drain", "reload"]);

const secondsBetween = (a, b) => (Date.parse(b.time) - Date.parse(a.time)) / 1000;

function forget() {
  Object.assign(past, { entries: [], current: null, last: 0, gathering: null, suspects: [], views: [] });
}

/** One event more, in the order of its number. */
function learn(event) {
  if (event.seq <= past.last) return;
  past.last = event.seq;
  const { current } = past;
  const entry = place(event, current && secondsBetween(current.latest, event) < BELONGS ? current : null);
  if (!entry) return;
  if (!entry.events.length) past.entries.push(entry);
  entry.events.push(event);
  entry.latest = event;
  // A remark in between does not end an occurrence.
  if (entry.kind !== "note") past.current = entry;
  if (past.entries.length > 500) past.entries.splice(0, 100);
}

function place(event, near) {
  const begin = (kind) => ({ kind, key: event.seq, events: [], latest: event, acquired: [], released: [] });
  switch (event.type) {
    case "started":
      return begin("note");
    case "became_mature":
      return begin("mature");
    case "gather_started":
      past.gathering = event;
      return near && near.kind === "gather" ? near : begin("gather");
    case "member_suspected": {
      past.suspects = [...new Set([...past.suspects, bare(event.fields.member)])];
      return near && near.kind === "gather" ? near : begin("gather");
    }
    case "view_installed": {
      past.gathering = null;
      past.suspects = [];
      past.views.push({ at: Date.parse(event.time), members: event.fields.view.members.map(bare) });
      const entry = near && near.kind === "gather" ? near : begin("view");
      return Object.assign(entry, { kind: "view", view: event });
    }
    case "balance_round":
      return Object.assign(begin("round"), { round: event });
    case "balance_round_done":
      return near && near.kind === "round" ? Object.assign(near, { done: event }) : begin("note");
    case "vip_acquired":
    case "vip_released": {
      const entry = near && near.kind !== "gather" ? near : begin("moves");
      entry[event.type === "vip_acquired" ? "acquired" : "released"].push(event);
      return entry;
    }
    default:
      if (SILENT.has(event.type)) return near;
      if (event.type === "vip_waits" && near) return near;
      if (event.level === "debug") return null;
      return begin("note");
  }
}

/** The event that gives an entry its time. */
const heart = (entry) => entry.view || entry.round || entry.events[0];

function headline(entry) {
  if (entry.kind === "view") {
    const { view, joined, left, cause } = entry.view.fields;
    const who = [joined.length ? `joined ${names(joined.map(bare))}` : "", left.length ? `left ${names(left.map(bare))}` : ""].filter(Boolean).join(", ");
    const members = view.members.map(bare);
    return [`View ${view.id}`, `${cause}: ${count(members.length, "member", "members")}${who ? `, ${who}` : ""}`, left.length ? "warning" : null];
  }
  if (entry.kind === "gather") {
    const gather = entry.events.find((event) => event.type === "gather_started");
    return gather ? ["Gather", `epoch ${gather.fields.epoch}, reason ${gather.cause}`, "warning"] : ["Suspicion", entry.latest.message, "warning"];
  }
  if (entry.kind === "round") {
    const { moves, moves_total, timed } = entry.round.fields;
    const took = entry.done ? `, done in ${span(entry.done.fields.seconds)}` : ", under way";
    const causes = [...new Set(moves.map((move) => move.cause))].join(", ");
    return [timed ? "Balance round" : "Hand-over", `${causes}: ${count(moves_total || moves.length, "move", "moves")}${took}`, null];
  }
  if (entry.kind === "mature") return ["Mature", "VIPs may be served", null];
  if (entry.kind === "moves") return ["", "", null];
  const event = entry.events[0];
  const level = { error: "critical", warning: "warning" }[event.level] || null;
  return ["", event.message[0].toUpperCase() + event.message.slice(1), level, { critical: "Error: ", warning: "Warning: " }[level]];
}

/** What happened to VIPs at this node, per cause. */
function effects(entry) {
  const lines = [];
  for (const [verb, events] of [["Acquired", entry.acquired], ["Released", entry.released]]) {
    for (const cause of new Set(events.map((event) => event.fields.cause))) {
      const of = events.filter((event) => event.fields.cause === cause);
      const times = of.map((event) => (verb === "Acquired" ? event.fields.since_before : event.fields.started_before));
      const [least, most] = [Math.min(...times), Math.max(...times)].map(span);
      const range = least === most ? most : `${least} to ${most}`;
      const what = verb === "Acquired" ? `without holder ${range}` : `in ${range}`;
      lines.push([`${verb} ${count(of.length, "VIP", "VIPs")} here`, ` (${cause}, ${what}): ${names(of.map((event) => event.fields.vip), 8)}`]);
    }
  }
  const waits = entry.events.filter((event) => event.type === "vip_waits");
  for (const reason of new Set(waits.map((event) => event.fields.reason))) {
    const of = new Set(waits.filter((event) => event.fields.reason === reason).map((event) => event.fields.vip));
    lines.push([`Waited for ${count(of.size, "VIP", "VIPs")}`, ` (${reason}): ${names([...of], 8)}`]);
  }
  if (entry.kind === "round") {
    const moves = entry.round.fields.moves.map((move) => `${move.vip} ${move.giver} to ${move.taker}`);
    lines.unshift(["Decided", `: ${names(moves, 4)}`]);
  }
  return lines;
}

/** Detection, gather and acquisition of a view change, in seconds. */
function phases(entry) {
  if (entry.kind !== "view") return [];
  const { gather_started_before: gather, failed_since_before: failed } = entry.view.fields;
  const found = [];
  const urgent = entry.acquired.filter((event) => !UNHURRIED.has(event.fields.cause));
  if (failed !== null && failed > gather) found.push(["detect", "detection", failed - gather]);
  if (gather !== null) found.push(["gather", "gather", gather]);
  if (urgent.length) {
    // Both times have whole milliseconds.
    const longest = Math.max(...urgent.map((event) => secondsBetween(entry.view, event)));
    found.push(["acquire", "acquisition", Math.max(longest, 0.0005)]);
  }
  return found;
}

function makeEntry(entry) {
  const [title, text, level, word] = headline(entry);
  const first = heart(entry);
  const what = make("div", { "data-level": level }, make("p", { class: "head" }));
  if (!title && !text) what.firstChild.hidden = true;
  what.firstChild.append(word ? make("span", { class: "level", text: word }) : make("b", { text: title }), title && text ? " " : "", text);
  const parts = phases(entry);
  if (parts.length) {
    const total = parts.reduce((sum, part) => sum + part[2], 0);
    const bar = make("div", { class: "phases", "aria-hidden": "true" });
    const key = make("p", { class: "key" });
    for (const [kind, name, seconds] of parts) {
      const piece = make("i", { class: kind });
      piece.style.flexGrow = String(seconds / total);
      bar.append(piece);
      key.append(make("span", {}, make("i", { class: kind, "aria-hidden": "true" }), `${name} ${span(seconds)}`));
    }
    what.append(...(parts.length > 1 ? [bar, key] : [key]));
  }
  for (const [strong, rest] of effects(entry)) what.append(make("p", { class: "effects" }, make("b", { text: strong }), rest));
  if (entry.events.length > 1) {
    const told = entry.events.slice(-80).map((event) => make("li", {}, make("span", { class: "mono", text: clock(event.time, true) }), ` ${event.message}`));
    what.append(make("details", {}, make("summary", { text: count(entry.events.length, "event", "events") }), make("ol", {}, ...told)));
  }
  return [make("time", { datetime: first.time }, clock(first.time, true), make("span", { text: day(first.time) })), what];
}

/** The date, where it is not today's. */
function day(text) {
  const date = new Date(text).toLocaleDateString("en-CA");
  return date === new Date(now()).toLocaleDateString("en-CA") ? "" : date;
}

function showStory(status) {
  const shown = [...past.entries].sort((a, b) => Date.parse(heart(b).time) - Date.parse(heart(a).time) || b.key - a.key).slice(0, past.shown);
  list(
    $("story"), shown, (entry) => entry.key, () => make("li"),
    (item, entry) => {
      if (item._events === entry.events.length) return;
      item._events = entry.events.length;
      const open = item.querySelector("details")?.open;
      const focused = item.contains(document.activeElement);
      item.replaceChildren(...makeEntry(entry));
      const details = item.querySelector("details");
      if (open && details) details.open = true;
      if (focused && details) details.firstChild.focus();
    },
  );
  $("older").hidden = past.entries.length <= past.shown;
  write($("story-note"), past.entries.length ? "" : "Nothing has happened yet.");
  if (status) showLanes(status);
}

const SPANS = [60, 300, 900, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600];
const LANES_MAX = 16;

/** Who was in this node's view, over time. */
function showLanes(status) {
  const lanes = $("lanes");
  const views = past.views.slice(-200);
  const members = status.members.map((m) => m.name).slice(0, LANES_MAX);
  if (!views.length) return lanes.replaceChildren();
  const end = now();
  const recent = views[Math.max(0, views.length - 12)].at;
  const length = 1000 * (SPANS.find((seconds) => end - recent < 1000 * seconds) || SPANS[SPANS.length - 1]);
  const begin = end - length;
  const stretches = views.map((view, i) => ({ ...view, until: i + 1 < views.length ? views[i + 1].at : status.view ? end : view.at }));
  const children = [];
  let hatched = false;
  for (const name of members) {
    const lane = make("div", { class: "lane", "aria-hidden": "true" });
    for (const view of stretches) {
      if (!view.members.includes(name) || view.until < begin) continue;
      const from = Math.max(view.at, begin);
      const alone = view.members.length === 1 && members.length > 1;
      const piece = make("i", { class: alone ? "alone" : null });
      hatched ||= alone;
      piece.style.left = `${(100 * (from - begin)) / length}%`;
      piece.style.width = `${(100 * (view.until - from)) / length}%`;
      lane.append(piece);
    }
    children.push(make("span", { class: "mono", text: name }), lane);
  }
  const axis = make("div", { class: "axis" }, make("span", { text: `${span(length / 1000)} ago` }), hatched ? make("span", { class: "middle", text: "hatched: alone in the view" }) : "", make("span", { text: "now" }));
  const told = `Members in this node's view, the last ${span(length / 1000)}; a break is a view change, hatched is alone`;
  children.push(make("span", { class: "unseen", text: told }), make("span", {}), axis);
  lanes.replaceChildren(...children);
}
