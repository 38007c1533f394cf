// The tree of module groups of one graph. An item is a node or a group; a level is what one group holds directly.
// After the rewrite, the nodes that fill one cache form a group of their own, a region: they are one fused call.

const MOST_PER_LEVEL = 60; // above this, a level is cut into runs: dagre's time grows faster than the level
const RUN = 40;
const FIRST_VIEW = 60; // items on show at the start, at most

function buildModel(graph, withConstants) {
  const root = newGroup("", "", null);
  const groups = new Map();
  const groupAt = (chain) => {
    let parent = root;
    chain.forEach(({ name, call, region }, depth) => {
      const path = region || (depth ? parent.path + "." : "") + name;
      const id = region ? "r:" + region : (depth ? parent.id + "." : "g:") + name + (call ? `@${call}` : "");
      if (!groups.has(id)) {
        const group = newGroup(path, name, parent);
        Object.assign(group, { id, call, region });
        groups.set(id, group);
        parent.children.push(group);
      }
      parent = groups.get(id);
    });
    return parent;
  };
  const chains = withRegions(graph, callSites(graph));
  const nodes = graph.nodes.map((data, index) => {
    if (data.kind === "const" && !withConstants) return null;
    const parent = groupAt(chains[index]);
    const node = { isGroup: false, id: "n:" + data.name, index, data, name: data.label || data.name, parent };
    parent.children.push(node);
    return node;
  });
  simplify(root);
  for (const group of groups.values()) {
    // "0" alone says nothing.
    if (/^\d/.test(group.name) && !group.region) group.name = group.path.split(".").slice(-1 - group.name.split(".").length).join(".");
    if (group.call) group.name += ` (call ${group.call})`;
  }
  cut(root);
  const items = new Map();
  gather(root, items);
  const edges = [];
  for (const [source, target, shape] of graph.edges) {
    if (nodes[source] && nodes[target]) edges.push({ u: nodes[source], v: nodes[target], shape });
  }
  for (const node of nodes) if (node) Object.assign(node, { before: [], after: [] });
  for (const edge of edges) {
    edge.u.after.push(edge);
    edge.v.before.push(edge);
  }
  for (const edge of drawn(nodes, edges)) assignEdge(edge);
  const model = { root, nodes: nodes.filter(Boolean), items, graph, edges };
  openFirst(model);
  return model;
}

// The chains with the regions in them: a region lies in the innermost group that holds all of it.
function withRegions(graph, chains) {
  if (graph.stage === "captured") return chains;
  const regions = new Map();
  graph.nodes.forEach((data, i) => {
    const name = data.extra.region;
    if (!name || data.kind === "const") return;
    if (!regions.has(name)) regions.set(name, []);
    regions.get(name).push(i);
  });
  const result = chains.slice();
  for (const [region, members] of regions) {
    if (members.length < 2) continue;
    const depth = members.reduce((most, i) => {
      let same = 0;
      while (same < most && same < chains[i].length && chains[i][same].name === chains[members[0]][same].name
        && chains[i][same].call === chains[members[0]][same].call) same++;
      return same;
    }, chains[members[0]].length);
    const around = chains[members[0]].slice(0, depth);
    const path = around.map(({ name }) => name).join(".");
    const link = { name: regionName(region, path), call: 0, region };
    const inside = new Set(members);
    graph.nodes.forEach((data, i) => {
      if (inside.has(i) || (data.kind === "const" && data.extra.region === region)) result[i] = [...around, link];
    });
  }
  return result;
}

// What the path around does not say already; "0" alone says nothing.
function regionName(region, path) {
  const rest = path && region.startsWith(path) ? region.slice(path.length).replace(/^[./]/, "") : region;
  if (rest && !/^\d/.test(rest)) return rest;
  const parts = region.split(".");
  let start = parts.length - 1;
  while (start > 0 && /^\d/.test(parts[start])) start--;
  return parts.slice(start).join(".");
}

function newGroup(path, name, parent) {
  return { isGroup: true, id: "g:" + path, path, name, parent, children: [], open: false, dirty: true,
    edges: [], inEdges: [], outEdges: [], inKeys: new Set(), outKeys: new Set() };
}

// A group of one child says nothing: a node moves up, a group takes both names.
function simplify(group) {
  group.children = group.children.map((child) => {
    if (!child.isGroup) return child;
    simplify(child);
    if (child.children.length !== 1) return child;
    const only = child.children[0];
    only.parent = group;
    if (only.isGroup && !only.region) only.name = child.name + "." + only.name;
    return only;
  });
  group.children.sort((a, b) => firstIndex(a) - firstIndex(b));
}

function firstIndex(item) {
  if (item.isGroup && item.first === undefined) item.first = Math.min(...item.children.map(firstIndex));
  return item.isGroup ? item.first : item.index;
}

// Nodes come in topological order, so runs of neighbours make no cycles that the graph did not have.
function cut(group) {
  for (const child of group.children) if (child.isGroup && !child.run) cut(child);
  while (group.children.length > MOST_PER_LEVEL) {
    const count = Math.ceil(group.children.length / RUN);
    const size = Math.ceil(group.children.length / count);
    const runs = [];
    for (let i = 0; i < count; i++) {
      const run = newGroup(group.path, `part ${i + 1} of ${count}`, group);
      run.id = `${group.id}#${group.children.length}.${i + 1}`;
      run.run = true;
      run.children = group.children.slice(i * size, (i + 1) * size);
      for (const child of run.children) child.parent = run;
      if (run.children.length) runs.push(run);
    }
    group.children = runs;
  }
}

function gather(item, items) {
  items.set(item.id, item);
  if (!item.isGroup) return item;
  const sum = { nodes: 0, macs: 0, params: 0, state_bytes: 0, kinds: {} };
  let weighted = 0, weight = 0, plain = 0, run = 0;
  for (const child of item.children) {
    gather(child, items);
    const one = child.isGroup ? child.sum : child.data;
    const count = child.isGroup ? one.nodes : 1;
    sum.nodes += count;
    for (const key of ["macs", "params", "state_bytes"]) sum[key] += one[key];
    const kinds = child.isGroup ? one.kinds : { [one.kind]: 1 };
    for (const kind in kinds) sum.kinds[kind] = (sum.kinds[kind] || 0) + kinds[kind];
    if (one.share !== null) {
      const measured = child.isGroup ? one.measured : { macs: one.macs, nodes: 1 };
      weighted += one.share * measured.macs;
      weight += measured.macs;
      plain += one.share * measured.nodes;
      run += measured.nodes;
    }
  }
  sum.measured = { macs: weight, nodes: run };
  sum.share = weight ? weighted / weight : run ? plain / run : null;
  item.sum = sum;
  if (item.region) describeRegion(item);
  return item;
}

// What a region is: its operators, and the cache they fill.
function describeRegion(group) {
  const nodes = group.children.map(({ data }) => data);
  group.cache = nodes.find(({ kind }) => kind === "cache");
  const work = nodes.filter(({ kind }) => kind !== "cache" && kind !== "const" && kind !== "input");
  group.ops = work.map(({ op }) => opText(op)).join(" + ") || "frame";
  const main = work.filter(({ kind }) => kind !== "layout").sort((a, b) => b.macs - a.macs)[0] || work[0];
  group.kind = main ? main.kind : "input";
}

function chain(item) {
  const groups = [];
  for (let group = item.parent; group; group = group.parent) groups.unshift(group);
  return groups;
}

function assignEdge(edge) {
  const from = chain(edge.u), to = chain(edge.v);
  let depth = 0;
  while (from[depth + 1] && from[depth + 1] === to[depth + 1]) depth++;
  from[depth].edges.push(edge);
  for (const group of from.slice(depth + 1)) { group.outEdges.push(edge); group.outKeys.add(edge.u.id); }
  for (const group of to.slice(depth + 1)) { group.inEdges.push(edge); group.inKeys.add(edge.u.id); }
}

// The edges to draw. A concatenation that goes on from another (DenseNet) gets one line from it instead of a line from
// each of the other's parts: the same parts, n lines instead of n².
function drawn(nodes, edges) {
  const joins = nodes.filter((node) => node && /(^|[._])(cat|concat)(\.|$)/.test(node.data.op) && node.before.length > 1);
  const shorter = new Map();
  for (const node of joins) {
    const parts = new Set(node.before.map(({ u }) => u));
    let best = null;
    for (const other of joins) {
      if (other === node) break;
      const fits = other.before.length < parts.size && other.before.every(({ u }) => parts.has(u));
      if (fits && (!best || other.before.length >= best.before.length)) best = other;
    }
    if (best) shorter.set(node, { best, covered: new Set(best.before.map(({ u }) => u)) });
  }
  const kept = edges.filter(({ u, v }) => !(shorter.has(v) && shorter.get(v).covered.has(u)));
  for (const [v, { best }] of shorter) kept.push({ u: best, v, shape: best.data.shape });
  return kept;
}

function childHolding(group, item) {
  while (item.parent !== group) item = item.parent;
  return item;
}

function isInside(item, group) {
  for (; item; item = item.parent) if (item === group) return true;
  return false;
}

// Opens whole depths of the tree for as long as the view stays small.
function openFirst(model) {
  let level = [model.root], shown = 1;
  for (let depth = 0; level.length; depth++) {
    const more = level.reduce((sum, group) => sum + group.children.length - 1, 0);
    if (depth > 0 && shown > 2 && shown + more > FIRST_VIEW) break;
    shown += more;
    for (const group of level) group.open = true;
    level = level.flatMap((group) => group.children.filter((child) => child.isGroup && !child.region));
  }
}

function setOpen(group, open) {
  if (group.open === open || !group.parent) return false;
  group.open = open;
  for (let g = group; g; g = g.parent) g.dirty = true;
  return true;
}

// Opens every group around an item; true where that changed something.
function reveal(item) {
  let changed = false;
  for (const group of chain(item)) changed = setOpen(group, true) || changed;
  return changed;
}

// The item itself, or the closed group that hides it.
function shownFor(item) {
  for (const group of chain(item)) if (!group.open) return group;
  return item;
}
