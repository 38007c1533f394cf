// Call sites: a module that runs several times in a frame is several groups, one per call, where a single group
// would tie distant parts of the graph together.

// For every node the modules around it, outermost first: {name, call}; call is 0 where a module is one group.
function callSites(graph) {
  const chains = graph.nodes.map(({ module }) => (module ? module.split(".").map((name) => ({ name, call: 0 })) : []));
  const isConstant = (i) => graph.nodes[i].kind === "const";
  const next = graph.nodes.map(() => []);
  for (const [source, target] of graph.edges) if (!isConstant(source)) next[source].push(target);
  const deepest = chains.reduce((depth, chain) => Math.max(depth, chain.length), 0);
  for (let depth = 0; depth < deepest; depth++) {
    const buckets = new Map();
    chains.forEach((chain, i) => {
      if (chain.length <= depth || isConstant(i)) return;
      const key = JSON.stringify(chain.slice(0, depth + 1).map(({ name, call }) => [name, call]));
      if (!buckets.has(key)) buckets.set(key, []);
      buckets.get(key).push(i);
    });
    for (const members of buckets.values()) {
      if (members[members.length - 1] - members[0] + 1 === members.length || !comesBack(members, next)) continue;
      const parts = components(members, next);
      if (parts.length > 1) parts.forEach((part, k) => { for (const i of part) chains[i][depth].call = k + 1; });
    }
  }
  // A constant goes with its first reader.
  for (const [source, target] of graph.edges) {
    if (!isConstant(source) || chains[source].placed) continue;
    chains[source].placed = true;
    const reader = chains[target];
    for (let depth = 0; depth < chains[source].length && depth < reader.length; depth++) {
      if (chains[source][depth].name !== reader[depth].name) break;
      chains[source][depth].call = reader[depth].call;
    }
  }
  return chains;
}

// Whether a path leaves the members and enters them again. Only nodes between the first and the last can be on it.
function comesBack(members, next) {
  const inside = new Set(members), seen = new Set(), last = members[members.length - 1];
  const open = members.flatMap((i) => next[i]).filter((i) => !inside.has(i));
  while (open.length) {
    const i = open.pop();
    if (inside.has(i)) return true;
    if (i > last || seen.has(i)) continue;
    seen.add(i);
    open.push(...next[i]);
  }
  return false;
}

// The weakly connected parts of the members, in order of their first nodes.
function components(members, next) {
  const owner = new Map(members.map((i) => [i, i]));
  const find = (i) => {
    while (owner.get(i) !== i) { owner.set(i, owner.get(owner.get(i))); i = owner.get(i); }
    return i;
  };
  for (const i of members) {
    for (const j of next[i]) {
      if (!owner.has(j)) continue;
      const [a, b] = [find(i), find(j)];
      owner.set(Math.max(a, b), Math.min(a, b));
    }
  }
  const parts = new Map();
  for (const i of members) {
    if (!parts.has(find(i))) parts.set(find(i), []);
    parts.get(find(i)).push(i);
  }
  return [...parts.values()];
}
