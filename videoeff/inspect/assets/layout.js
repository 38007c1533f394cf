// Layout by levels: dagre places the children of one open group at a time, and an open group is one box to its parent.
// An edge that leaves a group ends at a port on the group's border, where the parent's level goes on with it.

const HEADER = 26, PAD = 14, NODE_H = 40, MOST_PORTS = 8;

const measurer = document.createElement("canvas").getContext("2d");
const widths = new Map();

function textWidth(text, size, weight) {
  const key = size + weight + text;
  if (!widths.has(key)) {
    measurer.font = `${weight} ${size}px ${getComputedStyle(document.body).fontFamily}`;
    widths.set(key, measurer.measureText(text).width);
  }
  return widths.get(key);
}

// Cut in the middle: both the start and the end of a module path tell something.
function shorten(text, most, size, weight) {
  if (textWidth(text, size, weight) <= most) return text;
  let low = 1, high = text.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    const short = text.slice(0, Math.ceil(middle / 2)) + "…" + text.slice(text.length - Math.floor(middle / 2));
    if (textWidth(short, size, weight) <= most) low = middle; else high = middle - 1;
  }
  return text.slice(0, Math.ceil(low / 2)) + "…" + text.slice(text.length - Math.floor(low / 2));
}

function opText(op) {
  return op.replace(/^(aten|veff|torchvision)\./, "").replace(/\.[A-Za-z_]+$/, "");
}

function sizeOf(item) {
  if (item.isGroup && item.open) return item.box;
  const first = textWidth(item.name, 12.5, 600);
  const second = textWidth(captionOf(item, "kind"), 11, 400);
  const most = item.isGroup ? 230 : 216;
  return { w: Math.max(112, Math.min(most, Math.max(first + (item.isGroup ? 26 : 0), second) + 22)),
    h: item.isGroup ? NODE_H + 6 : NODE_H };
}

const inKey = (group, edge) => (group.inKeys.size > MOST_PORTS ? "*" : edge.u.id);
const outKey = (group, edge) => (group.outKeys.size > MOST_PORTS ? "*" : edge.u.id);
const isOpen = (item) => item.isGroup && item.open;

// The lines of one level, each with the edges it stands for.
function linesOf(group) {
  const lines = new Map();
  const add = (edge, from, to, fromPort, toPort) => {
    const key = JSON.stringify([from, to, fromPort, toPort]);
    if (!lines.has(key)) lines.set(key, { from, to, fromPort, toPort, edges: [] });
    lines.get(key).edges.push(edge);
  };
  for (const edge of group.edges) {
    const a = childHolding(group, edge.u), b = childHolding(group, edge.v);
    add(edge, a.id, b.id, isOpen(a) ? outKey(a, edge) : null, isOpen(b) ? inKey(b, edge) : null);
  }
  if (!group.parent) return [...lines.values()];
  for (const edge of group.inEdges) {
    const b = childHolding(group, edge.v);
    add(edge, "in:" + inKey(group, edge), b.id, null, isOpen(b) ? inKey(b, edge) : null);
  }
  for (const edge of group.outEdges) {
    const a = childHolding(group, edge.u);
    add(edge, a.id, "out:" + outKey(group, edge), isOpen(a) ? outKey(a, edge) : null, null);
  }
  return [...lines.values()];
}

function placeLevel(group) {
  const lines = linesOf(group);
  const g = new dagre.graphlib.Graph({ multigraph: true });
  g.setGraph({ rankdir: "TB", nodesep: 26, edgesep: 14, ranksep: 34 });
  const ends = { from: new Set(), to: new Set() };
  for (const child of group.children) {
    const { w, h } = sizeOf(child);
    g.setNode(child.id, { width: w, height: h });
  }
  lines.forEach((line, i) => {
    for (const end of [line.from, line.to]) if (!g.hasNode(end)) g.setNode(end, { width: 8, height: 0 });
    g.setEdge(line.from, line.to, { labelpos: "c", weight: line.from.startsWith("in:") ? 1 : 2 }, String(i));
    ends.from.add(line.from);
    ends.to.add(line.to);
  });
  const ins = g.nodes().filter((id) => id.startsWith("in:")), outs = g.nodes().filter((id) => id.startsWith("out:"));
  // Two helper nodes hold the ports on the first and on the last rank.
  const guide = (v, w, weight, minlen) => g.setEdge(v, w, { labelpos: "c", weight, minlen }, "guide");
  for (const id of ins) guide("^", id, 50, 1);
  for (const id of outs) guide(id, "$", 50, 1);
  for (const { id } of group.children) {
    if (ins.length && !ends.to.has(id)) guide("^", id, 0, 2);
    if (outs.length && !ends.from.has(id)) guide(id, "$", 0, 2);
  }
  for (const id of ["^", "$"]) if (g.hasNode(id)) g.setNode(id, { width: 0, height: 0 });
  dagre.layout(g);
  foldLevel(group, g, lines);
  frameLevel(group, g, lines, ins, outs);
}

function frameLevel(group, g, lines, ins, outs) {
  let left = Infinity, right = -Infinity, top = Infinity, bottom = -Infinity;
  const grow = (x, y) => {
    left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
  };
  for (const child of group.children) {
    const p = g.node(child.id), { w, h } = sizeOf(child);
    grow(p.x - w / 2, p.y - h / 2);
    grow(p.x + w / 2, p.y + h / 2);
  }
  lines.forEach((line, i) => { for (const p of g.edge(line.from, line.to, String(i)).points) grow(p.x, p.y); });
  if (left > right) grow(0, 0); // nothing here
  const inside = group.parent ? PAD : 0;
  const head = group.parent ? HEADER : 0;
  const dy = head + (ins.length ? 0 : inside) - top, tail = outs.length ? 0 : inside;
  const words = [textWidth(group.name, 12.5, 600), textWidth(captionOf(group, "kind"), 11, 400)];
  const title = group.parent ? Math.min(300, words[0]) + words[1] + 64 : 0;
  const w = Math.max(right - left + 2 * inside, title);
  const dx = (w - (right - left)) / 2 - left;
  group.box = { w, h: bottom + dy + tail };
  group.ports = new Map();
  for (const id of [...ins, ...outs]) group.ports.set(id, g.node(id).x + dx);
  for (const child of group.children) {
    const p = g.node(child.id), size = sizeOf(child);
    child.at = { x: p.x + dx - size.w / 2, y: p.y + dy - size.h / 2, ...size };
  }
  group.lines = lines.map((line, i) => {
    const points = g.edge(line.from, line.to, String(i)).points.map((p) => ({ x: p.x + dx, y: p.y + dy }));
    const from = group.children.find((c) => c.id === line.from), to = group.children.find((c) => c.id === line.to);
    if (from && isOpen(from)) points[0] = atPort(from, "out:" + line.fromPort, from.at.h);
    if (to && isOpen(to)) points[points.length - 1] = atPort(to, "in:" + line.toPort, 0);
    if (points.length === 3 && (!from || isOpen(from) || !to || isOpen(to))) {
      points[1] = { x: (points[0].x + points[2].x) / 2, y: (points[0].y + points[2].y) / 2 };
    }
    if (!to) points[points.length - 1] = { x: points[points.length - 1].x, y: group.box.h };
    return { points, edges: line.edges, arrow: Boolean(to && !isOpen(to)) };
  });
}

function atPort(item, port, y) {
  const x = item.ports.get(port);
  return { x: item.at.x + (x === undefined ? item.at.w / 2 : x), y: item.at.y + y };
}

// Lays out what changed, inner levels first. Between levels the page may react to the reader.
async function layOut(group, clock) {
  for (const child of group.children) if (isOpen(child)) await layOut(child, clock);
  if (!group.dirty) return;
  if (performance.now() - clock.last > 40) {
    await new Promise((resolve) => setTimeout(resolve, 0));
    clock.last = performance.now();
  }
  placeLevel(group);
  group.dirty = false;
}

function pathOf(points) {
  const p = points.map(({ x, y }) => [Math.round(x * 10) / 10, Math.round(y * 10) / 10]);
  const middle = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  let d = `M${p[0]}`;
  if (p.length > 2) d += `L${middle(p[0], p[1])}`;
  for (let i = 1; i < p.length - 1; i++) d += `Q${p[i]} ${middle(p[i], p[i + 1])}`;
  return d + `L${p[p.length - 1]}`;
}
