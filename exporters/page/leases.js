// What silences this node when it should no longer answer, and who else claims what it holds.

const LAYERS = { fast: "fast (packet filter)", address: "address (lifetime)", guard: "guard (process)" };
const FRESH = 60; // seconds for which a rival's claim is a fault under way

const lapsed = (lease) => lease.layer === "fast" && lease.active && lease.until === null;

function showLeases(status) {
  describe($("leases"), status.leases.map((lease) => {
    const notes = [
      lease.detail,
      lease.margin === null ? "" : `${span(lease.margin)} left at the last renewal`,
      lease.expired ? `ran out ${count(lease.expired, "time", "times")}` : "",
    ];
    const text = !lease.active ? "not in force" : lapsed(lease) ? "no lease runs" : "in force";
    return [LAYERS[lease.layer] || lease.layer, text, lease.active ? null : "warning", notes.filter(Boolean).join(", ")];
  }));
  const active = new Set(status.leases.filter((lease) => lease.active).map((lease) => lease.layer));
  let note = "";
  if (!active.has("fast")) {
    note = active.has("address")
      ? "If the agent hangs, only the lifetime of its addresses silences this node: that takes seconds."
      : "If the agent hangs, nothing silences this node: its addresses stay until it is helped.";
  }
  write($("leases-note"), note);
}

function aboutLeases(status) {
  const found = [];
  const away = status.leases.filter((lease) => !lease.active);
  if (away.length) {
    const reasons = away.map((lease) => (lease.detail ? `${lease.layer} (${lease.detail})` : lease.layer));
    found.push(["warning", count(away.length, "lease layer missing", "lease layers missing"), `Not in force: ${names(reasons)}. An agent that hangs or is killed is silenced late.`]);
  }
  const held = status.vips.filter((v) => v.held).length;
  if (held && status.leases.some(lapsed)) {
    found.push(["critical", "Silent", `The lease is over, so the kernel answers for none of the ${count(held, "VIP", "VIPs")} held here until peers have acknowledged this node again.`]);
  }
  if (status.engine.sealed === false) {
    found.push(["warning", "Not sealed", "Messages are neither encrypted nor checked: anybody on the network can move VIPs."]);
  }
  const claims = status.vips.flatMap((v) => v.rivals.map((rival) => [v, rival]));
  if (claims.length) {
    const fresh = claims.some(([, rival]) => now() - Date.parse(rival.last) < 1000 * FRESH);
    const texts = claims.map(([v, rival]) => `${v.name} by ${rival.mac} on ${rival.interface} (${count(rival.claims, "claim", "claims")}, last ${clock(rival.last)}, ${rival.answer})`);
    found.push([fresh ? "critical" : "notice", "Claimed by another host", `${names(texts, 4)}. The switch knows the port of that address.`]);
  }
  return found;
}
