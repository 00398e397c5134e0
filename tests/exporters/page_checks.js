// What a screen reader, a keyboard and a pair of weak eyes need; evaluates to a list of complaints.
(() => {
  const found = [];
  const visible = (e) => e.checkVisibility({ visibilityProperty: true }) && !e.closest(".unseen");
  const nameOf = (e) => (e.getAttribute("aria-label") || (e.getAttribute("aria-labelledby") || "").split(" ").map((id) => document.getElementById(id)?.textContent || "").join(" ") || e.textContent).trim();
  const say = (e, text) => found.push(`<${e.tagName.toLowerCase()} id="${e.id}" class="${e.className}"> ${text}: ${(e.textContent || "").trim().slice(0, 60)}`);

  if (!document.documentElement.lang) found.push("no language");
  if (!document.title) found.push("no title");
  for (const one of ["h1", "main", "body > header", "body > footer"]) if (document.querySelectorAll(one).length !== 1) found.push(`not exactly one ${one}`);
  let level = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    const here = Number(heading.tagName[1]);
    if (here > level + 1) say(heading, "skips a level");
    level = here;
    if (!heading.textContent.trim()) say(heading, "is empty");
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push(`id ${id} twice`);
  for (const attribute of ["aria-labelledby", "aria-describedby", "aria-controls", "for"])
    for (const e of document.querySelectorAll(`[${attribute}]`))
      for (const id of e.getAttribute(attribute).split(" ")) if (!document.getElementById(id)) say(e, `${attribute} names ${id}, which is not there`);
  for (const e of document.querySelectorAll("section, nav, [role=region], [role=group]"))
    if (!e.getAttribute("aria-label") && !nameOf({ getAttribute: (n) => e.getAttribute(n), textContent: "" })) say(e, "is a landmark without a name");
  for (const e of document.querySelectorAll("a, button, summary")) if (!nameOf(e)) say(e, "has no name");
  for (const e of document.querySelectorAll("input, select, textarea")) if (!e.labels.length && !e.getAttribute("aria-label")) say(e, "has no label");
  for (const e of document.querySelectorAll("[tabindex]")) if (Number(e.getAttribute("tabindex")) > 0) say(e, "is out of the order of the page");
  for (const e of document.querySelectorAll("table")) {
    if (!e.caption?.textContent.trim()) say(e, "has no caption");
    for (const th of e.querySelectorAll("th")) if (!th.getAttribute("scope")) say(th, "has no scope");
    for (const th of e.querySelectorAll("thead th")) if (!th.textContent.trim()) say(th, "is an empty column header");
    const width = e.tHead.rows[0].cells.length;
    for (const row of e.tBodies[0].rows) {
      if (row.getAttribute("aria-hidden")) continue;
      if (!row.querySelector("th[scope=row]")) say(row, "has no row header");
      if (row.cells.length !== width) say(row, `has ${row.cells.length} cells under ${width} headers`);
    }
  }
  for (const e of document.querySelectorAll("*")) {
    const style = getComputedStyle(e);
    if (visible(e) && /auto|scroll/.test(style.overflowX + style.overflowY) && (e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight) && e !== document.documentElement && e.tabIndex < 0) say(e, "scrolls, but not by the keyboard");
    if (e.hasAttribute("style") && e.style.cssText.includes("url")) say(e, "loads something");
  }
  // No fact by colour alone: a mark has a word beside it, a coloured row names its state.
  for (const e of document.querySelectorAll(".pip")) if (!e.parentElement.querySelector(".unseen")?.textContent.trim()) say(e, "is a mark without a word");
  for (const e of document.querySelectorAll("tr[data-level]")) if (!e.querySelector(".word")?.textContent.trim()) say(e, "is coloured without a word");
  for (const e of document.querySelectorAll(".notice")) if (!e.querySelector(".level").textContent.trim()) say(e, "is coloured without a word");
  if (document.getElementById("notices").getAttribute("aria-live") !== "polite") found.push("notices are not live");
  for (const e of document.querySelectorAll("button, input")) {
    const box = e.getBoundingClientRect();
    if (visible(e) && box.width && (box.height < 24 || box.width < 24)) say(e, `is ${box.width} by ${box.height} pixels`);
  }

  // Contrast by WCAG 2: 4.5 to 1, for large text 3 to 1.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const groundOf = (e) => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3]) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || !visible(e) || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(e.tagName)) continue;
    const style = getComputedStyle(e);
    const ground = groundOf(e);
    const [a, b] = [light(over(rgba(style.color), ground)), light(ground)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) say(e, `has contrast ${ratio.toFixed(2)}`);
  }
  return found;
})();
