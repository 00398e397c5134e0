// What the other parts stand on: elements, and how things are written. Text goes into the page as text, never as markup.

const $ = (id) => document.getElementById(id);

/** A new element; `properties`: attributes, or `text`, or data-* as `data`. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Changes only what differs, so that selection, focus and screen readers are left in peace. */
function write(element, text) {
  const words = String(text);
  if (element.textContent !== words) element.textContent = words;
}

function mark(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

/** Makes the children of `parent` those of `items`, in order; elements are kept by key. */
function list(parent, items, keyOf, create, update) {
  const kept = parent._kept || (parent._kept = new Map());
  const seen = new Set();
  let place = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    seen.add(key);
    let element = kept.get(key);
    if (!element) kept.set(key, (element = create(item)));
    update(element, item);
    if (element === place) place = place.nextSibling;
    else parent.insertBefore(element, place);
  }
  for (const [key, element] of kept) {
    if (!seen.has(key)) {
      element.remove();
      kept.delete(key);
    }
  }
}

/** Rows of a description list. `facts`: [term, text, level, remark]. */
function describe(parent, facts) {
  list(
    parent, facts, (fact) => fact[0],
    (fact) => make("div", {}, make("dt", { text: fact[0] }), make("dd", {}, make("span"), make("small"))),
    (row, [, text, level, remark]) => {
      const value = row.lastChild;
      write(value.firstChild, text);
      write(value.lastChild, remark ? ` ${remark}` : "");
      mark(value, "data-level", level);
    },
  );
}

let ahead = 0; // milliseconds that the agent's clock is ahead of this browser's

const now = () => Date.now() + ahead;

/** Seconds in words of three figures at most. */
function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const size = Math.abs(seconds);
  if (size === 0) return "0\u00a0s";
  if (size < 0.0095) return `${(seconds * 1000).toFixed(1)}\u00a0ms`;
  if (size < 1) return `${(seconds * 1000).toFixed(0)}\u00a0ms`;
  if (size < 10) return `${Number(seconds.toFixed(1))}\u00a0s`;
  if (size < 120) return `${seconds.toFixed(0)}\u00a0s`;
  if (size < 7200) return `${(seconds / 60).toFixed(0)}\u00a0min`;
  if (size < 172800) return `${(seconds / 3600).toFixed(0)}\u00a0h`;
  return `${(seconds / 86400).toFixed(0)}\u00a0d`;
}

/** For how long, in whole seconds. */
const age = (text) => span(Math.floor(Math.max(0, (now() - Date.parse(text)) / 1000)));

const two = (number) => String(number).padStart(2, "0");

/** Time of day as the browser's zone has it. */
function clock(text, milliseconds = false) {
  const at = new Date(text);
  const day = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return milliseconds ? `${day}.${String(at.getMilliseconds()).padStart(3, "0")}` : day;
}

const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/** The first few of many names. */
function names(all, most = 6) {
  const shown = all.slice(0, most).join(", ");
  return all.length > most ? `${shown} and ${all.length - most} more` : shown;
}

const bare = (member) => String(member).split("#")[0];

const MOVING = new Set(["acquiring", "releasing", "waiting"]);

/** Words and weight of one VIP's state, as this node knows it. */
function stateOf(vip, silent) {
  if (vip.state === "failed") return ["failed here", "critical", "failed"];
  if (vip.owner === null) return ["uncovered", "critical", ""];
  if (MOVING.has(vip.state)) return [vip.state, "warning", "moving"];
  if (silent.has(vip.owner)) return ["holder silent", "warning", "silent"];
  if (vip.rivals.some((rival) => now() - Date.parse(rival.last) < 60000)) return ["claimed by another host", "warning", "held"];
  return [vip.state === "held" ? "held here" : "held", null, "held"];
}
