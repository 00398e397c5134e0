// VIPs by nodes. Only the rows in sight exist, so that sixteen thousand VIPs cost as much as forty.

const ROW = 30; // pixels; --row of the style
const TALL = 24; // rows from which on the table scrolls inside its box
const MANY_NODES = 7;

const chosen = { group: "", words: "" };
let rows = []; // [vip, word, level, mark] of those that are shown
let columns = [];

function arrange(status, suspected) {
  const all = status.vips.map((vip) => [vip, ...stateOf(vip, suspected)]);
  const unsettled = all.filter((row) => row[2] !== null);
  const words = chosen.words.toLowerCase();
  const shown = all.filter(([vip, word, level]) => {
    if (chosen.group === "!" && level === null) return false;
    if (chosen.group.startsWith("=") && vip.owner !== chosen.group.slice(1)) return false;
    return !words || [vip.name, vip.owner || "nobody", word, ...vip.addresses].some((text) => text.toLowerCase().includes(words));
  });
  // What needs eyes comes first where not all are in sight; else the order of the configuration stays.
  const rank = shown.length > TALL ? { critical: 0, warning: 1 } : {};
  rows = shown.map((row, i) => [row, i]).sort((a, b) => (rank[a[0][2]] ?? 2) - (rank[b[0][2]] ?? 2) || a[1] - b[1]).map((pair) => pair[0]);
  return unsettled;
}

function showGroups(status, unsettled) {
  const loads = new Map(status.members.map((m) => [m.name, 0]));
  for (const vip of status.vips) if (vip.owner !== null) loads.set(vip.owner, (loads.get(vip.owner) || 0) + 1);
  const groups = [["", "all", status.vips.length, null], ["!", "unsettled", unsettled.length, unsettled.some((row) => row[2] === "critical") ? "critical" : null]];
  for (const [node, load] of loads) groups.push([`=${node}`, node, load, null]);
  if (!groups.some((group) => group[0] === chosen.group)) chosen.group = "";
  const wanted = status.vips.length > TALL;
  $("find-label").hidden = !wanted;
  list(
    $("groups"), wanted ? groups : [], (group) => group[0],
    (group) => {
      const button = make("button", { type: "button" });
      button.addEventListener("click", () => {
        chosen.group = group[0];
        $("holdings-box").scrollTop = 0;
        render();
      });
      return button;
    },
    (button, [key, name, size, level]) => {
      write(button, `${name} ${size.toLocaleString("en")}`);
      mark(button, "aria-pressed", chosen.group === key ? "true" : "false");
      mark(button, "data-level", level);
    },
  );
}

function showHoldings(status, suspected) {
  const unsettled = arrange(status, suspected);
  showGroups(status, unsettled);
  columns = status.members.map((m) => m.name);
  const away = new Set(status.members.filter((m) => !m.in_view).map((m) => m.name));
  $("holdings").classList.toggle("many", columns.length > MANY_NODES);
  list(
    $("holdings-head"), ["VIP", ...columns.map((name) => `=${name}`), "State", "For", "Cause"], (key) => key,
    (key) => make("th", { scope: "col" }, make("span"), make("span", { class: "unseen" })),
    (cell, key) => {
      const node = key.startsWith("=") ? key.slice(1) : null;
      write(cell.firstChild, node === null ? key : node);
      write(cell.lastChild, node === status.node ? " (this node)" : away.has(node) ? " (not in the view)" : "");
      mark(cell, "class", node === null ? null : `node${node === status.node ? " self" : ""}${away.has(node) ? " away" : ""}`);
    },
  );
  $("holdings-box").classList.toggle("tall", rows.length > TALL);
  mark($("holdings"), "aria-rowcount", rows.length + 1);
  const total = status.vips.length;
  write($("holdings-note"), rows.length === total ? (total ? "" : "No VIPs are configured.") : `${rows.length.toLocaleString("en")} of ${count(total, "VIP", "VIPs")} shown.`);
  showWindow(status.node);
}

/** The rows in sight, between two gaps that are as high as the rest. */
function showWindow(self) {
  const box = $("holdings-box");
  const tall = rows.length > TALL;
  const first = tall ? Math.max(0, Math.min(rows.length - 1, Math.floor(box.scrollTop / ROW) - 6)) : 0;
  const last = tall ? Math.min(rows.length, first + Math.ceil((box.clientHeight || 640) / ROW) + 14) : rows.length;
  const seen = rows.slice(first, last).map((row, i) => ({ row, index: first + i }));
  const gaps = [{ gap: first, key: "above" }, ...seen, { gap: rows.length - last, key: "below" }];
  list(
    $("holdings-body"), tall ? gaps : seen, (item) => (item.key ? `gap ${item.key}` : `vip ${item.row[0].name}`),
    (item) => (item.key ? make("tr", { class: "gap", "aria-hidden": "true" }, make("td")) : makeRow()),
    (element, item) => {
      if (!item.key) return showRow(element, item, self);
      element.firstChild.style.height = `${item.gap * ROW}px`;
      element.firstChild.colSpan = columns.length + 4;
    },
  );
}

function makeRow() {
  return make("tr", {}, make("th", { scope: "row", class: "mono" }));
}

function showRow(row, { row: [vip, word, level, kind], index }, self) {
  mark(row, "aria-rowindex", index + 2);
  mark(row, "data-level", level);
  while (row.children.length < columns.length + 4) row.append(make("td"));
  while (row.children.length > columns.length + 4) row.lastChild.remove();
  write(row.firstChild, vip.name);
  mark(row.firstChild, "title", vip.addresses.join(" ") || "not configured on this node");
  columns.forEach((node, i) => {
    const cell = row.children[1 + i];
    mark(cell, "class", node === self ? "node self" : "node");
    showCell(cell, vip.owner === node ? kind : vip.held && node === self ? "moving" : "", word);
  });
  const [state, since, cause] = [...row.children].slice(-3);
  write(state, word);
  mark(state, "class", "word");
  mark(state, "data-level", level);
  write(since, vip.since === null ? "" : age(vip.since));
  mark(since, "class", "quiet");
  write(cause, vip.cause === null ? "" : vip.cause);
  mark(cause, "class", "quiet");
}

function showCell(cell, kind, word) {
  if ((cell.dataset.mark || "") === kind + (kind && word)) return;
  cell.dataset.mark = kind + (kind && word);
  if (kind) cell.replaceChildren(make("span", { class: "pip", "data-mark": kind, "aria-hidden": "true" }), make("span", { class: "unseen", text: word }));
  else cell.replaceChildren();
}
