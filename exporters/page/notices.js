// What a person must know before anything else. The texts do not change with every second: they are read aloud.

function heardOf(member) {
  return member.heard === null ? "never heard" : `last heard ${clock(member.heard)}`;
}

/** Members that this node does not hear: silent for longer than the failure timeout, and than a poll can tell. */
function unheard(status) {
  const limit = Math.max(1, status.engine.failure_timeout);
  return status.members.filter((m) => m.name !== status.node && (m.silence === null || m.silence > limit));
}

function aboutView(status, gathering, suspects) {
  const found = [];
  const others = status.members.filter((m) => m.name !== status.node);
  const silent = unheard(status);
  const named = names(silent.map((m) => `${m.name} (${heardOf(m)})`), 4);
  if (status.state === "LEFT") {
    return [["warning", "Left the group", "This node holds nothing and takes part in nothing. `molehill join` brings it back."]];
  }
  if (gathering) {
    const who = suspects.length ? `: ${names(suspects)} silent` : "";
    found.push(["warning", "Fail-over under way", `Gathering for a new view since ${clock(gathering.time, true)} (${gathering.cause}${who}). Nothing moves until it is installed.`]);
  }
  if (status.view === null) {
    if (!gathering) found.push(["warning", "In no view", "This node holds nothing until it is in one."]);
  } else if (status.view.members.length === 1 && others.length) {
    const rest = silent.length === others.length
      ? `No other member is heard: ${named}. Either they are down, or this node is cut off and they hold the same VIPs on their side.`
      : `Others are heard, but share no view with it: ${names(others.filter((m) => !silent.includes(m)).map((m) => m.name))}.`;
    found.push(["critical", `${status.node} is alone`, `Its view has one of ${others.length + 1} members. ${rest}`]);
  } else {
    const away = others.filter((m) => !m.in_view);
    if (away.length) {
      const quiet = away.filter((m) => silent.includes(m));
      const heard = away.filter((m) => !silent.includes(m));
      if (quiet.length) found.push(["critical", `${count(quiet.length, "member", "members")} missing`, `Not in the view and not heard: ${names(quiet.map((m) => `${m.name} (${heardOf(m)})`), 4)}.`]);
      if (heard.length) found.push(["warning", "Heard, but not in the view", `${names(heard.map((m) => m.name))}: joining, or the link works one way only.`]);
    }
  }
  if (!status.quorate) {
    const votes = status.view !== null && status.view.votes !== null ? `${status.view.votes} of ${status.view.votes_needed} votes that are needed` : "Too few votes";
    found.push(["critical", "Not quorate", `${votes} are in this view, so this node holds nothing.`]);
  }
  return found;
}

function aboutVips(status, suspected) {
  const found = [];
  const bare = status.vips.filter((v) => v.owner === null);
  const failed = status.vips.filter((v) => v.state === "failed");
  const moving = status.vips.filter((v) => MOVING.has(v.state));
  const orphaned = status.vips.filter((v) => v.owner !== null && suspected.has(v.owner));
  if (!status.mature && status.view !== null) {
    found.push(["warning", "Not mature yet", "The group has just started: nothing is held until its first member has been up for long enough."]);
  } else if (bare.length && status.view !== null) {
    found.push(["critical", count(bare.length, "VIP uncovered", "VIPs uncovered"), `Nobody answers for ${names(bare.map((v) => v.name))}.`]);
  }
  if (failed.length) found.push(["critical", "Could not be put up here", `${names(failed.map((v) => v.name))}: the time line says why.`]);
  if (orphaned.length) found.push(["warning", count(orphaned.length, "VIP without an answer", "VIPs without an answer"), `Held by a member that is suspected: ${names(orphaned.map((v) => v.name))}.`]);
  if (moving.length) found.push(["warning", count(moving.length, "VIP on the move", "VIPs on the move"), names(moving.map((v) => `${v.name} ${v.state}`))]);
  return found;
}

function aboutStanding(status) {
  const found = [];
  const differ = status.members.filter((m) => !m.config_matches);
  if (differ.length) found.push(["warning", "Settings differ", `${names(differ.map((m) => m.name))}: compare \`molehill check\`, make the files alike, then \`molehill reload\`.`]);
  const unfit = status.members.filter((m) => m.in_view && !m.fit);
  if (unfit.length) found.push(["warning", "Not fit", `${names(unfit.map((m) => m.name))}: in the view, but given no VIP.`]);
  const draining = status.members.filter((m) => m.draining);
  if (draining.length) found.push(["notice", "Drained", `${names(draining.map((m) => m.name))}: holds nothing until \`molehill drain --undo\`.`]);
  const failing = status.vips.filter((v) => v.held && v.announced !== null && v.announced.failing);
  if (failing.length) found.push(["warning", "Announcements failed", `${names(failing.map((v) => v.name))}: clients may go astray until the next refresh.`]);
  return found;
}

function showNotices(status, story, lost) {
  const suspected = new Set(story.suspects);
  const found = [];
  if (lost) found.push(["critical", "No contact with the agent", `Stale: everything below is as of ${clock(lost)}. The page goes on asking.`]);
  if (status) found.push(...aboutView(status, story.gathering, story.suspects), ...aboutVips(status, suspected), ...aboutLeases(status), ...aboutStanding(status));
  list(
    $("notices"), found, (notice) => notice[1].replace(/^\d[\d,]* /, ""),
    () => make("li", { class: "notice" }, make("span", { class: "level" }), make("b"), make("span")),
    (item, [level, title, text]) => {
      mark(item, "data-level", level);
      write(item.children[0], level);
      write(item.children[1], title);
      write(item.children[2], text);
    },
  );
}
