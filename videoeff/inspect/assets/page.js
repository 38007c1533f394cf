// Wiring: the header's controls, two panes, the side panel.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const panes = {};
const finder = { hits: [], at: -1 };
const hooks = {
  choose(pane, item) {
    const region = item && (item.isGroup ? item.region : item.data.extra.region);
    for (const other of Object.values(panes)) {
      // The same node or module in the other graph is marked too, and all nodes of the same region.
      other.select(other === pane ? item : (item && other.model.items.get(item.id)) || null, region);
    }
    drawSelection(byId("selection"), pane, item, hooks);
  },
  async show(pane, node) {
    await pane.show(node);
    hooks.choose(pane, node);
  },
};

const currentView = () => document.querySelector("input[name=view]:checked").value;
const shownPanes = () => Object.values(panes).filter((pane) => !pane.element.hidden);

async function setView(view) {
  byId("panes").dataset.view = view;
  for (const key of ["before", "after"]) {
    if (view !== key && view !== "both") {
      if (panes[key]) panes[key].element.hidden = true;
      continue;
    }
    const fresh = !panes[key];
    if (fresh) panes[key] = new Pane(key, data[key], byId("panes"), hooks);
    panes[key].mode = byId("colour").value;
    panes[key].element.hidden = false;
    if (panes[key].withConstants !== byId("constants").checked) panes[key].setConstants(byId("constants").checked);
    await panes[key].refresh();
    if (fresh || view === "both") panes[key].frame();
  }
  byId("panes").append(...["before", "after"].filter((key) => panes[key]).map((key) => panes[key].element));
  search(false);
}

// Every word must occur in the name, label or module.
function search(move = true) {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  finder.hits = [];
  finder.at = -1;
  for (const pane of shownPanes()) {
    pane.hits = new Set(words.length ? pane.model.nodes.filter(({ data: d }) => {
      const text = `${d.name} ${d.label} ${d.module}`.toLowerCase();
      return words.every((word) => text.includes(word));
    }) : []);
    finder.hits.push(...[...pane.hits].map((node) => [pane, node]));
    pane.mark();
  }
  if (move && finder.hits.length) {
    const [pane, node] = finder.hits[0];
    pane.keepInSight(shownFor(node));
  }
  sayHits(words.length > 0);
}

function sayHits(searching) {
  const total = finder.hits.length;
  byId("hits").textContent = !searching ? "" : total === 0 ? "nothing found"
    : finder.at < 0 ? `${total} found` : `${finder.at + 1} of ${total}`;
}

async function step(way) {
  const total = finder.hits.length;
  if (!total) return;
  finder.at = finder.at < 0 && way < 0 ? total - 1 : (finder.at + way + total) % total;
  sayHits(true);
  await hooks.show(...finder.hits[finder.at]);
}

for (const radio of document.querySelectorAll("input[name=view]")) {
  radio.addEventListener("change", () => setView(radio.value));
}
byId("colour").addEventListener("change", () => {
  for (const pane of Object.values(panes)) { pane.mode = byId("colour").value; pane.recolour(); }
});
byId("constants").addEventListener("change", () => setView(currentView()));
byId("search").addEventListener("input", () => search());
byId("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
});
byId("next").addEventListener("click", () => step(1));
byId("previous").addEventListener("click", () => step(-1));
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, select, textarea")) return;
  event.preventDefault();
  byId("search").focus();
});
darkQuery.addEventListener("change", () => { for (const pane of Object.values(panes)) pane.recolour(); });

const hasConstants = ["before", "after"].some((key) => data[key].nodes.some((node) => node.kind === "const"));
byId("constants").closest("label").hidden = !hasConstants;
setView(currentView()).then(() => {
  document.documentElement.dataset.ready = performance.now().toFixed(1);
});
