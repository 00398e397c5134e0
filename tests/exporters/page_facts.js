// What the page says, for tests.
window.facts = {
  holders() {
    const nodes = [...document.querySelectorAll("#holdings-head .node")].map((cell) => cell.firstChild.textContent);
    const rows = [...document.querySelectorAll("#holdings-body tr:not(.gap)")];
    return Object.fromEntries(rows.map((row) => [row.cells[0].textContent, nodes.filter((_, i) => row.cells[i + 1].querySelector(".pip"))]));
  },
  states() {
    const rows = [...document.querySelectorAll("#holdings-body tr:not(.gap)")];
    return Object.fromEntries(rows.map((row) => [row.cells[0].textContent, row.querySelector(".word").textContent]));
  },
  notices: () => [...document.querySelectorAll("#notices li")].map((item) => item.textContent),
  figure(name) {
    const row = [...document.querySelectorAll("#figures > div")].find((one) => one.firstChild.textContent.startsWith(name));
    return row ? row.lastChild.textContent : null;
  },
  members: () => Object.fromEntries([...document.querySelectorAll("#members-body tr")].map((row) => [row.cells[0].firstChild.textContent, [...row.cells].slice(1).map((cell) => cell.textContent)])),
  story: () => [...document.querySelectorAll("#story > li")].map((item) => item.innerText),
  terms: (id) => Object.fromEntries([...document.getElementById(id).children].map((row) => [row.children[0].textContent, row.children[1].textContent])),
  contact: () => document.getElementById("contact-text").textContent,
};
true;
