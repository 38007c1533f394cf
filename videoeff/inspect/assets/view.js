// Moving about in a pane: pan, zoom, pointer and keyboard.

Object.assign(Pane.prototype, {
  size() {
    return { w: this.svg.clientWidth || 800, h: this.svg.clientHeight || 600 };
  },

  move() {
    const { x, y, k } = this.view;
    this.layer.setAttribute("transform", `translate(${x} ${y}) scale(${k})`);
    this.layer.classList.toggle("far", k < 0.35);
  },

  zoom(factor, at) {
    const { w, h } = this.size();
    const point = at || { x: w / 2, y: h / 2 };
    const k = Math.max(0.02, Math.min(4, this.view.k * factor));
    this.view.x = point.x - (point.x - this.view.x) * (k / this.view.k);
    this.view.y = point.y - (point.y - this.view.y) * (k / this.view.k);
    this.view.k = k;
    this.move();
  },

  // The whole graph.
  fit() {
    const { w, h } = this.size(), box = this.model.root.box;
    const k = Math.min(1.2, (w - 40) / Math.max(1, box.w), (h - 40) / Math.max(1, box.h));
    this.view = { k, x: (w - box.w * k) / 2, y: (h - box.h * k) / 2 };
    this.move();
  },

  // The whole graph where it stays readable, else its start.
  frame() {
    this.fit();
    if (this.view.k >= 0.5) return;
    const { w } = this.size(), box = this.model.root.box, least = 0.7;
    const k = Math.max(this.view.k, Math.min(1, Math.max(least, (w - 40) / box.w)));
    const x = box.w * k <= w - 40 ? (w - box.w * k) / 2 : 20;
    this.view = { k, x, y: 20 };
    this.move();
  },

  centre(item) {
    const { w, h } = this.size();
    if (this.view.k < 0.5) this.view.k = 0.8;
    const at = this.positionOf(item), { k } = this.view;
    this.view.x += w / 2 - (at.x + (item.at.w * k) / 2);
    this.view.y += (item.at.h * k > h ? 40 - at.y : h / 2 - (at.y + (item.at.h * k) / 2));
    this.move();
  },

  // Moves the view only where the item is out of sight.
  keepInSight(item) {
    const { w, h } = this.size(), at = this.positionOf(item), { k } = this.view;
    const height = isOpen(item) ? HEADER : item.at.h;
    if (at.x < 0 || at.y < 0 || at.x + item.at.w * k > w || at.y + height * k > h) this.centre(item);
  },

  itemAt(target) {
    const face = target.closest && target.closest("[data-id]");
    return face ? this.model.items.get(face.dataset.id) : null;
  },

  listen() {
    const svg = this.svg, pointers = new Map();
    let moved = 0;
    svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      const unit = event.deltaMode === 1 ? 16 : 1;
      this.zoom(Math.exp(-Math.max(-200, Math.min(200, event.deltaY * unit)) * 0.002), this.local(event));
    }, { passive: false });
    svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      pointers.set(event.pointerId, this.local(event));
      moved = 0;
    });
    svg.addEventListener("pointermove", (event) => {
      const last = pointers.get(event.pointerId);
      if (!last) return;
      const now = this.local(event);
      moved += Math.abs(now.x - last.x) + Math.abs(now.y - last.y);
      if (moved > 4 && !svg.hasPointerCapture(event.pointerId)) {
        svg.setPointerCapture(event.pointerId);
        svg.classList.add("dragging");
      }
      const other = [...pointers].find(([id]) => id !== event.pointerId);
      if (other) {
        const gap = (p) => Math.hypot(p.x - other[1].x, p.y - other[1].y);
        this.zoom(gap(now) / Math.max(1, gap(last)), other[1]);
      } else if (moved > 4) {
        this.view.x += now.x - last.x;
        this.view.y += now.y - last.y;
        this.move();
      }
      pointers.set(event.pointerId, now);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      svg.addEventListener(name, (event) => {
        pointers.delete(event.pointerId);
        svg.classList.remove("dragging");
      });
    }
    svg.addEventListener("click", (event) => {
      if (moved > 4) return;
      const toggle = event.target.closest("[data-toggle]");
      if (toggle) {
        this.toggle(this.model.items.get(toggle.dataset.toggle));
        return;
      }
      this.hooks.choose(this, this.itemAt(event.target));
    });
    svg.addEventListener("dblclick", (event) => {
      const item = this.itemAt(event.target);
      if (item && item.isGroup && !event.target.closest("[data-toggle]")) this.toggle(item);
    });
    svg.addEventListener("focusin", (event) => {
      const item = this.itemAt(event.target);
      if (item && event.target.matches(":focus-visible")) this.keepInSight(item);
    });
    svg.addEventListener("keydown", (event) => this.onKey(event));
  },

  local(event) {
    const box = this.svg.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  },

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const item = this.itemAt(event.target);
    const act = {
      "+": () => this.zoom(1.3), "=": () => this.zoom(1.3), "-": () => this.zoom(1 / 1.3), "0": () => this.fit(),
      "Enter": () => item && this.hooks.choose(this, item),
      " ": () => item && (item.isGroup ? this.toggle(item) : this.hooks.choose(this, item)),
      "Escape": () => this.hooks.choose(this, null),
      "ArrowDown": () => item && this.focus(this.neighbour(item, 1)),
      "ArrowUp": () => item && this.focus(this.neighbour(item, -1)),
      "ArrowRight": () => item && this.focus(this.order[this.order.indexOf(item) + 1]),
      "ArrowLeft": () => item && this.focus(this.order[this.order.indexOf(item) - 1]),
      "Home": () => this.focus(this.order[0]),
      "End": () => this.focus(this.order[this.order.length - 1]),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  },

  // The item on show at the other end of the first edge out of (1) or into (-1) an item.
  neighbour(item, way) {
    for (const { u, v } of this.model.edges) {
      const [near, far] = way > 0 ? [u, v] : [v, u];
      if (isInside(near, item) && !isInside(far, item)) return shownFor(far);
    }
    return null;
  },

  focus(item) {
    if (!item) return;
    this.setStop(item.id);
    this.faces.get(item.id).focus({ preventScroll: true });
    this.keepInSight(item);
  },
});
