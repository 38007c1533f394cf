// The side panel: the attributes of what is selected.

function bytes(value) {
  for (const [size, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (value >= size) return `${(value / size).toPrecision(3)} ${unit}`;
  }
  return `${value} bytes`;
}

function tableOf(rows) {
  const body = make("tbody", {});
  for (const [key, value] of rows) body.append(make("tr", {}, make("th", { scope: "row" }, key), make("td", {}, value)));
  return make("table", {}, body);
}

function exact(value, short) {
  return value >= 1000 ? `${short} (${value.toLocaleString("en")})` : String(value);
}

function nodeRows({ data }) {
  const rows = [["name", data.name], ["label", data.label], ["op", data.op], ["module", data.module || "none"],
    ["kind", data.kind], ["shape", data.shape || "none"], ["dtype", data.dtype], ["args", data.args],
    ["kernel", data.kernel || "not chosen yet"], ["reason", data.reason || "none"],
    ["threshold", data.threshold === null ? "none" : String(data.threshold)],
    ["MACs per frame", exact(data.macs, count(data.macs, ""))],
    ["active share", data.share === null ? "not run" : `${(100 * data.share).toFixed(2)} %`],
    ["parameters", exact(data.params, count(data.params, ""))], ["state", bytes(data.state_bytes)]];
  for (const key in data.extra) rows.push([key, data.extra[key]]);
  return rows;
}

function regionRows({ region, cache, ops, sum }) {
  return [["layer", region], ["fused call", `${ops}, kept as ${cache.shape || "a value"}`], ["kernel", cache.kernel || "not chosen yet"],
    ["reason", cache.reason || "none"], ["threshold", `${cache.threshold} (${cache.extra.test || "test not named"})`],
    ["active share", cache.share === null ? "not run" : `${(100 * cache.share).toFixed(2)} %`],
    ["MACs per frame", exact(sum.macs, count(sum.macs, ""))],
    ["parameters", exact(sum.params, count(sum.params, ""))], ["state", bytes(sum.state_bytes)]];
}

function groupRows(group) {
  const { path, run, sum, name } = group;
  if (group.region) return regionRows(group);
  const kinds = KINDS.filter((kind) => sum.kinds[kind]).map((kind) => `${sum.kinds[kind]} ${kind}`).join(", ");
  return [["module", run ? `${path || "none"}, ${name}` : path], ["nodes", String(sum.nodes)],
    ["kinds", kinds], ["MACs per frame", exact(sum.macs, count(sum.macs, ""))],
    ["active share", sum.share === null ? "not run" : `${(100 * sum.share).toFixed(2)} %, weighted by MACs`],
    ["parameters", exact(sum.params, count(sum.params, ""))], ["state", bytes(sum.state_bytes)]];
}

function linkList(title, nodes, show) {
  if (!nodes.length) return [];
  const list = make("ul", { class: "links" });
  for (const node of nodes.slice(0, 40)) {
    const button = make("button", { type: "button" }, node.data.name);
    button.addEventListener("click", () => show(node));
    list.append(make("li", {}, button));
  }
  if (nodes.length > 40) list.append(make("li", {}, `and ${nodes.length - 40} more`));
  return [make("h3", {}, title), list];
}

function drawSelection(holder, pane, item, hooks) {
  holder.replaceChildren(make("h2", {}, "Selection"));
  if (!item) {
    holder.append(make("p", { class: "quiet" }, "Select a node or a group to see its attributes."));
    return;
  }
  const head = item.isGroup ? item.name : item.data.label || item.data.name;
  holder.append(make("p", { class: "chosen" }, head, make("small", {}, ` ${item.region ? "region" : item.isGroup ? "group" : "node"}, ${pane.key}`)));
  if (item.isGroup) {
    const button = make("button", { type: "button", id: "toggle" }, `${item.open ? "Close" : "Open"} the ${item.region ? "region" : "group"}`);
    button.addEventListener("click", async () => {
      await pane.toggle(item);
      drawSelection(holder, pane, item, hooks);
    });
    holder.append(button);
  }
  holder.append(tableOf(item.isGroup ? groupRows(item) : nodeRows(item)));
  const distinct = (nodes) => [...new Set(nodes)];
  const show = (node) => hooks.show(pane, node);
  const [before, after] = item.isGroup ? [item.inEdges, item.outEdges] : [item.before, item.after];
  holder.append(...linkList("Inputs", distinct(before.map((edge) => edge.u)), show),
    ...linkList("Outputs", distinct(after.map((edge) => edge.v)), show));
}
