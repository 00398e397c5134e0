// The node and its fellow members: figures, facts, table.

function showHead(status, gathering) {
  const state = gathering ? "GATHER" : status.state; // the event is here before the status
  write($("node"), status.node);
  write($("cluster"), `in ${status.cluster}`);
  write($("state"), state);
  mark($("state"), "data-level", ["RUN", "BALANCE"].includes(state) ? null : "warning");
  const inView = status.view ? status.view.members.length : 0;
  document.title = `${status.node} ${state} ${inView}/${status.members.length} - Molehill`;
  write($("version"), `Molehill ${status.version}`);
}

function showFigures(status, suspected) {
  const all = status.vips.length;
  const covered = status.vips.filter((v) => v.owner !== null && !suspected.has(v.owner)).length;
  const here = status.vips.filter((v) => v.held).length;
  const inView = status.view ? status.view.members.length : 0;
  const known = status.members.length;
  const spread = status.view ? status.view.spread : null;
  describe($("figures"), [
    ["members in the view", inView, inView < known ? "critical" : suspected.size ? "warning" : null, `of ${known}${suspected.size ? `, ${suspected.size} suspected` : ""}`],
    [inView < known ? "VIPs covered on this side" : "VIPs covered", covered.toLocaleString("en"), covered < all ? "critical" : null, `of ${all.toLocaleString("en")}`],
    ["VIPs held here", here.toLocaleString("en")],
    ["imbalance", spread === null ? "-" : Number(spread.toFixed(2)), spread !== null && spread > 1 ? "warning" : null, "most less least"],
    ["since the last view change", status.view ? age(status.view.since) : "-"],
  ]);
}

const SEALED = { true: "sealed: encrypted and proven genuine", false: "not sealed: every datagram is believed", null: "carried by the engine's daemon" };

function showFacts(status) {
  const view = status.view;
  const standing = [status.fit ? "fit" : "unfit: given no VIP", status.draining ? "draining" : null].filter(Boolean).join(", ");
  describe($("facts"), [
    ["State", status.state],
    ["View", view ? view.id : "none"],
    ["Members", view ? names(view.members, 16) : "-"],
    ["Installed", view ? `${clock(view.since, true)}, cause ${view.cause}, gathered in ${span(view.gathered)}` : "-"],
    ["Maturity", status.mature ? "mature: VIPs may be served" : "not mature yet"],
    ["Standing", standing],
    ["Quorum", `${status.quorate ? "quorate" : "not quorate"}${view && view.votes !== null ? `: ${view.votes} votes, ${view.votes_needed} are needed` : ""}`],
    ["Imbalance", view ? `${Number(view.spread.toFixed(2))} (weighted load, most less least)` : "-"],
    ["Engine", `${status.engine.kind}, heartbeat ${span(status.engine.heartbeat)}, failure timeout ${span(status.engine.failure_timeout)}`],
    ["Messages", SEALED[status.engine.sealed], status.engine.sealed === false ? "warning" : null],
    ["ARP cache", `${status.arp_cache.local} of this node, ${status.arp_cache.shared} shared`],
  ]);
}

function standingOf(member) {
  const words = [];
  if (!member.fit) words.push("unfit");
  if (member.draining) words.push("draining");
  if (member.leaving) words.push("leaving");
  return words.join(", ") || (member.in_view ? "fit" : "");
}

function showMembers(status, suspects) {
  const most = Math.max(1, ...status.members.map((m) => m.vips));
  list(
    $("members-body"), status.members, (m) => m.name,
    () => {
      const row = make("tr", {}, make("th", { scope: "row" }, make("span"), make("span", { class: "tag", hidden: true })));
      for (const kind of ["word", "word", "", "number", "number", "word", "mono quiet"]) row.append(make("td", { class: kind || null }));
      row.children[3].append(make("span"), make("span", { class: "load", "aria-hidden": "true" }));
      return row;
    },
    (row, m) => showMember(row, m, status, suspects, most),
  );
}

function showMember(row, m, status, suspects, most) {
  const self = m.name === status.node;
  const [name, view, standing, vips, heard, rtt, settings, address] = row.children;
  write(name.firstChild, m.name);
  write(name.lastChild, self ? "this node" : "");
  name.lastChild.hidden = !self;
  const silent = !self && unheard(status).includes(m);
  const suspected = m.in_view && suspects.includes(m.name);
  write(view, suspected ? "suspected" : m.in_view ? "in view" : silent ? "missing" : "outside");
  mark(view, "data-level", suspected ? "warning" : m.in_view ? null : "critical");
  write(standing, standingOf(m));
  mark(standing, "data-level", m.fit && !m.draining && !m.leaving ? null : "warning");
  write(vips.firstChild, m.vips.toLocaleString("en"));
  vips.lastChild.style.width = `${Math.round((60 * m.vips) / most)}px`;
  write(heard, self ? "" : m.silence === null ? "never" : `${span(m.silence < 1 ? m.silence : Math.floor(m.silence))} ago`);
  write(rtt, m.rtt === null ? "" : span(m.rtt));
  write(settings, self ? "" : m.incarnation === null ? "unknown" : m.config_matches ? "same" : "differ");
  mark(settings, "data-level", m.config_matches ? null : "warning");
  write(address, m.address === null ? "" : m.address);
}

// What this node told the network.

const SENDS_SHOWN = 12;

function showSends(status) {
  const sent = status.vips.filter((v) => v.announced !== null);
  const frames = sent.reduce((sum, v) => sum + v.announced.frames, 0);
  const errors = sent.reduce((sum, v) => sum + v.announced.errors, 0);
  write($("sends-total"), sent.length
    ? `${count(frames, "frame", "frames")} for ${count(sent.length, "VIP", "VIPs")} since the agent started, ${errors ? `${errors} failed` : "none failed"}.`
    : "None since the agent started.");
  $("sends-box").hidden = sent.length === 0;
  const newest = sent.sort((a, b) => (a.announced.last < b.announced.last ? 1 : -1)).slice(0, SENDS_SHOWN);
  list(
    $("sends-body"), newest, (v) => v.name,
    () => {
      const row = make("tr", {}, make("th", { scope: "row", class: "mono" }));
      for (const kind of ["", "", "mono", "", "number", "number word"]) row.append(make("td", { class: kind || null }));
      return row;
    },
    (row, v) => {
      const a = v.announced;
      [v.name, clock(a.last, true), a.kind, a.target === v.name ? "all" : a.target, a.occasion, a.frames, a.errors].forEach((text, i) => write(row.children[i], text));
      mark(row.children[6], "data-level", a.errors ? "critical" : null);
    },
  );
}
