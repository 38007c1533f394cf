// One graph on show: drawing, zoom and pan, selection and keyboard.

const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  element.append(...children);
  return element;
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  element.append(...children);
  return element;
}

class Pane {
  constructor(key, graph, holder, hooks) {
    Object.assign(this, { key, graph, hooks, mode: "kind", withConstants: false, selected: null, hits: new Set() });
    this.view = { x: 0, y: 0, k: 1 };
    this.faces = new Map(); // id of a shown item -> its <g>
    this.busy = Promise.resolve();
    this.title = make("h2", {});
    this.legend = make("div", { class: "legend", "aria-label": "Legend" });
    this.layer = draw("g", {});
    const marker = (id) => draw("marker", { id: `${id}-${key}`, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8,
      markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto", class: id },
    draw("path", { d: "M0.5 0.8 7.5 4 0.5 7.2z" }));
    this.svg = draw("svg", { tabindex: -1, role: "group", "aria-label": `Graph ${key}` },
      draw("defs", {}, marker("arrow"), marker("arrow-on")), this.layer);
    const button = (text, label, action) => {
      const element = make("button", { type: "button", "aria-label": label, title: label }, text);
      element.addEventListener("click", action);
      return element;
    };
    this.tools = make("div", { class: "tools" },
      button("+", "Zoom in", () => this.zoom(1.3)), button("−", "Zoom out", () => this.zoom(1 / 1.3)),
      button("Fit", "Fit the graph", () => this.fit()), button("Open all", "Open all groups; again: regions too", () => this.openAll(true)),
      button("Close all", "Close all groups", () => this.openAll(false)));
    this.element = make("section", { class: "pane", id: `pane-${key}`, "aria-label": `Graph ${key}` },
      make("div", { class: "bar" }, this.title, this.tools), this.svg, this.legend);
    holder.append(this.element);
    this.listen();
    this.setConstants(false);
  }

  setConstants(show) {
    const open = this.model && new Set([...this.model.items.values()].filter(isOpen).map((item) => item.id));
    this.withConstants = show;
    this.model = buildModel(this.graph, show);
    if (open) for (const item of this.model.items.values()) if (item.isGroup) setOpen(item, open.has(item.id));
    this.scale = most(this.model);
    this.selected = this.selected && this.model.items.get(this.selected.id) || null;
    const hidden = this.graph.nodes.length - this.model.nodes.length;
    this.title.textContent = `${this.graph.name} `;
    this.title.append(make("small", {}, `${this.graph.stage}, ${this.model.nodes.length} nodes`
      + (hidden ? `, ${hidden} constants hidden` : "")));
  }

  // Lays out and draws. What `anchor` shows stays where it is on the screen.
  refresh(anchor) {
    this.busy = this.busy.then(async () => {
      const start = performance.now();
      this.element.setAttribute("aria-busy", "true");
      const old = anchor && this.positionOf(anchor);
      await layOut(this.model.root, { last: performance.now() });
      const laidOut = performance.now();
      this.redraw();
      if (old) {
        const now = this.positionOf(anchor);
        if (now) { this.view.x += old.x - now.x; this.view.y += old.y - now.y; }
      }
      this.move();
      this.element.removeAttribute("aria-busy");
      this.timing = { layout: laidOut - start, draw: performance.now() - laidOut };
      this.element.dataset.layoutMs = this.timing.layout.toFixed(1);
      this.element.dataset.drawMs = this.timing.draw.toFixed(1);
    });
    return this.busy;
  }

  // The corner of a shown item in pixels of the pane.
  positionOf(item) {
    if (!item.at) return null;
    let x = 0, y = 0;
    for (let one = item; one.parent; one = one.parent) { x += one.at.x; y += one.at.y; }
    return { x: x * this.view.k + this.view.x, y: y * this.view.k + this.view.y };
  }

  redraw() {
    const focused = document.activeElement && document.activeElement.dataset && document.activeElement.dataset.id;
    const hadFocus = focused && this.svg.contains(document.activeElement);
    this.faces.clear();
    this.strokes = [];
    this.order = [];
    this.layer.replaceChildren(...this.levelOf(this.model.root));
    this.recolour();
    this.mark();
    if (!this.faces.has(this.stop)) this.stop = this.order.length ? this.order[0].id : null;
    this.setStop(this.stop);
    if (hadFocus && this.faces.has(focused)) this.faces.get(focused).focus({ preventScroll: true });
  }

  levelOf(group) {
    const boxes = [], lines = [], rest = [];
    for (const child of group.children) {
      const face = child.isGroup ? this.groupFace(child) : this.nodeFace(child);
      face.setAttribute("transform", `translate(${child.at.x} ${child.at.y})`);
      (isOpen(child) ? boxes : rest).push(face);
    }
    for (const line of group.lines) {
      const path = draw("path", { d: pathOf(line.points), class: "edge" });
      if (line.arrow) path.setAttribute("marker-end", `url(#arrow-${this.key})`);
      const shapes = [...new Set(line.edges.map((edge) => edge.shape).filter(Boolean))];
      const names = `${line.edges[0].u.data.name} → ${line.edges[0].v.data.name}`;
      const more = line.edges.length > 1 ? ` and ${line.edges.length - 1} more` : "";
      path.append(draw("title", {}, `${names}${more}${shapes.length ? "\n" + shapes.slice(0, 4).join(", ") : ""}`));
      this.strokes.push({ path, line });
      lines.push(path);
    }
    return [...lines, ...boxes, ...rest];
  }

  faceFor(item, words, ...children) {
    const face = draw("g", { class: item.isGroup ? "group" : "node", tabindex: -1, role: "button", "data-id": item.id,
      "aria-label": words }, ...children);
    this.faces.set(item.id, face);
    this.order.push(item);
    return face;
  }

  nodeFace(node) {
    const { w, h } = node.at;
    const words = `${node.data.name}, ${node.data.op}, ${node.data.kind}`;
    return this.faceFor(node, words, draw("title", {}, `${node.data.name}\n${node.data.op}`),
      draw("rect", { class: "body", width: w, height: h, rx: 6 }),
      draw("text", { class: "name", x: w / 2, y: 17 }, shorten(node.name, w - 16, 12.5, 600)),
      draw("text", { class: "caption", x: w / 2, y: 32 }));
  }

  groupFace(group) {
    const { w, h } = group.at;
    const what = group.region ? "region" : "group";
    const words = `${what} ${group.name}, ${group.sum.nodes} nodes, ${group.open ? "open" : "closed"}`;
    const centre = group.open ? HEADER / 2 : 14;
    const button = draw("g", { class: "toggle", "data-toggle": group.id, transform: `translate(${w - 16} ${centre})` },
      draw("title", {}, group.open ? "Close the group" : "Open the group"), draw("circle", { r: 8 }),
      draw("path", { d: group.open ? "M-4 0H4" : "M-4 0H4M0-4V4" }));
    const title = draw("title", {}, group.path || group.name);
    if (group.open) {
      const name = shorten(group.name, 300, 12.5, 600);
      const text = draw("text", { class: "name", x: 12, y: 17 }, name, draw("tspan", { class: "count", dx: 8 }));
      const depth = Math.min(4, chain(group).length);
      const under = draw("rect", { class: `box depth${depth}`, width: w, height: h, rx: 8 });
      const head = draw("path", { class: "head",
        d: `M0 ${HEADER}V8a8 8 0 0 1 8-8H${w - 8}a8 8 0 0 1 8 8V${HEADER}z` });
      const inner = this.levelOf(group);
      const face = this.faceFor(group, words, under, ...inner,
        draw("g", { class: "header" }, title, head, text, button),
        draw("rect", { class: "frame", width: w, height: h, rx: 8 }));
      face.setAttribute("aria-expanded", "true");
      return face;
    }
    const bar = draw("g", { class: "mixture" });
    if (group.region) bar.append(draw("rect", { class: "k-cache strip", x: 10, y: h - 10, width: w - 20, height: 5, rx: 2 }));
    let x = 10;
    for (const kind of group.region ? [] : KINDS) {
      const part = (w - 20) * (group.sum.kinds[kind] || 0) / group.sum.nodes;
      if (part) bar.append(draw("rect", { class: `k-${kind}`, x, y: h - 10, width: part, height: 4 }));
      x += part;
    }
    const face = this.faceFor(group, words, title,
      draw("rect", { class: "stack", x: 4, y: 4, width: w, height: h, rx: 8 }),
      draw("rect", { class: "body", width: w, height: h, rx: 8 }),
      draw("text", { class: "name left", x: 10, y: 18 }, shorten(group.name, w - 44, 12.5, 600)),
      draw("text", { class: "caption left", x: 10, y: 32 }), bar, button);
    face.setAttribute("aria-expanded", "false");
    return face;
  }

  recolour() {
    this.layer.classList.toggle("by-kind", this.mode === "kind");
    for (const [id, element] of this.faces) {
      const item = this.model.items.get(id);
      const { kind, fill, text, none } = faceOf(item, this.mode, this.scale);
      element.setAttribute("class", [item.isGroup ? "group" : "node", item.region ? "region" : "", isOpen(item) ? "open" : "", kind ? "k-" + kind : "",
        none ? "none" : ""].join(" ").trim());
      const caption = captionOf(item, this.mode);
      if (isOpen(item)) {
        element.querySelector(":scope > .header .count").textContent = caption;
        continue;
      }
      element.querySelector(".body").style.fill = fill || "";
      for (const word of element.querySelectorAll("text")) word.style.fill = text || "";
      element.querySelector(".caption").textContent = shorten(caption, item.at.w - 14, 11, 400);
    }
    drawLegend(this.legend, this.model, this.mode, this.scale);
    this.mark();
  }

  // Classes for the selection, the lines that touch it, and the hits of a search.
  mark() {
    const hitHolders = new Set([...this.hits].map((node) => shownFor(node).id));
    const same = new Set(this.sameRegion().map((node) => shownFor(node).id));
    this.layer.classList.toggle("searching", hitHolders.size > 0);
    for (const [id, element] of this.faces) {
      element.classList.toggle("selected", Boolean(this.selected && this.selected.id === id));
      element.classList.toggle("hit", hitHolders.has(id));
      element.classList.toggle("same", same.has(id));
    }
    const chosen = this.selected;
    for (const { path, line } of this.strokes || []) {
      const on = chosen && line.edges.some(({ u, v }) => isInside(u, chosen) !== isInside(v, chosen));
      path.classList.toggle("on", Boolean(on));
      if (line.arrow) path.setAttribute("marker-end", `url(#${on ? "arrow-on" : "arrow"}-${this.key})`);
    }
  }

  // The nodes of the region that was chosen here or in the other graph.
  sameRegion() {
    return this.region ? this.model.nodes.filter(({ data }) => data.extra.region === this.region) : [];
  }

  select(item, region) {
    this.selected = item;
    this.region = region || "";
    this.mark();
    if (item && this.faces.has(item.id)) this.setStop(item.id);
  }

  // The one item that Tab reaches; arrows move it.
  setStop(id) {
    if (this.faces.has(this.stop)) this.faces.get(this.stop).setAttribute("tabindex", -1);
    this.stop = id;
    if (this.faces.has(id)) this.faces.get(id).setAttribute("tabindex", 0);
  }

  async show(item) {
    if (reveal(item)) await this.refresh();
    this.select(item);
    this.centre(item);
  }

  async toggle(group) {
    if (setOpen(group, !group.open)) await this.refresh(group);
  }

  // Opens the modules; a region is readable closed, so regions open only where every module is open already.
  async openAll(open) {
    const groups = [...this.model.items.values()].filter((item) => item.isGroup);
    const modules = groups.filter((group) => !group.region);
    const all = !open || modules.every((group) => group.open || !group.parent);
    for (const group of all ? groups : modules) setOpen(group, open);
    await this.refresh();
    this.frame();
  }
}
