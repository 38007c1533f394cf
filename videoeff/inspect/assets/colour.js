// What the faces of nodes and groups show: fill, second line of text, legend.

const KINDS = ["input", "output", "local", "layout", "dense", "cache", "const"];
const KIND_TEXT = { input: "input", output: "output", local: "local: follows the change mask", layout: "layout: free",
  dense: "dense: whole map", cache: "cache: change test", const: "constant" };
const SCALE = {
  light: ["#eef4fb", "#b9d4f0", "#6fa8dc", "#2b6cb0", "#143f73"],
  dark: ["#1c2939", "#23507c", "#2f7fc0", "#74b9ec", "#d6ecfc"],
};
const darkQuery = matchMedia("(prefers-color-scheme: dark)");

function mix(position) {
  const stops = SCALE[darkQuery.matches ? "dark" : "light"];
  const at = Math.max(0, Math.min(1, position)) * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(at));
  const [a, b] = [stops[i], stops[i + 1]].map((s) => [1, 3, 5].map((k) => parseInt(s.slice(k, k + 2), 16)));
  return a.map((v, k) => Math.round(v + (b[k] - v) * (at - i)));
}

function luminance(rgb) {
  const [r, g, b] = rgb.map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// Fill with the text colour that contrasts more.
function sequential(position) {
  const rgb = mix(position);
  return { fill: `rgb(${rgb})`, text: luminance(rgb) > 0.179 ? "#000000" : "#ffffff" };
}

const activityPosition = (share) => Math.sqrt(share); // most shares are small
const DECADES = 4;
const macsPosition = (macs, most) => Math.max(0, 1 + Math.log10(macs / most) / DECADES);

function count(value, unit) {
  for (const [size, prefix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= size) return `${Number((value / size).toPrecision(3))} ${prefix} ${unit}`.trim();
  }
  return `${Number(value.toPrecision(3))} ${unit}`.trim();
}

function percent(share) {
  return share === null ? "not run" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

function most(model) {
  let value = 1;
  for (const item of model.items.values()) {
    if (item.parent) value = Math.max(value, item.isGroup ? item.sum.macs : item.data.macs);
  }
  return value;
}

// {kind | fill, text, none} for one item.
function faceOf(item, mode, scale) {
  const one = item.isGroup ? item.sum : item.data;
  if (mode === "activity") return one.share === null ? { none: true } : sequential(activityPosition(one.share));
  if (mode === "macs") return one.macs ? sequential(macsPosition(one.macs, scale)) : { none: true };
  return item.isGroup ? (item.region ? { kind: item.kind } : {}) : { kind: one.kind };
}

function captionOf(item, mode) {
  const one = item.isGroup ? item.sum : item.data;
  const start = item.region ? item.ops : item.isGroup ? `${one.nodes} nodes` : opText(one.op);
  const macs = one.macs ? count(one.macs, "MACs") : "no MACs";
  const shape = item.region ? item.cache.shape : item.isGroup ? macs : one.shape;
  const end = mode === "activity" ? percent(one.share) : mode === "macs" ? macs : shape;
  return end ? `${start} · ${end}` : start;
}

function drawLegend(holder, model, mode, scale) {
  holder.textContent = "";
  if (mode === "kind") {
    for (const kind of KINDS) {
      const total = model.root.sum.kinds[kind];
      if (total) holder.append(make("span", { class: "key" }, make("i", { class: "swatch k-" + kind }), KIND_TEXT[kind],
        make("b", {}, String(total))));
    }
    if ([...model.items.values()].some((item) => item.region)) {
      holder.append(make("span", { class: "key" }, make("i", { class: "swatch region-key" }), "region: one fused call and its cache"));
    }
    return;
  }
  const bar = make("canvas", { width: 200, height: 1, class: "scale", "aria-hidden": "true" });
  const context = bar.getContext("2d");
  for (let x = 0; x < 200; x++) {
    context.fillStyle = sequential(x / 199).fill;
    context.fillRect(x, 0, 1, 1);
  }
  const ticks = mode === "activity"
    ? [0, 0.01, 0.1, 0.25, 0.5, 1].map((v) => [activityPosition(v), `${Math.round(100 * v)}`])
    : [0, 1, 2, 3, 4].map((k) => [k / DECADES, count(Number((scale / 10 ** (DECADES - k)).toPrecision(2)), "")]);
  const axis = make("span", { class: "axis" });
  for (const [position, text] of ticks) {
    const tick = make("span", { class: "tick" }, text);
    tick.style.left = `${100 * position}%`;
    axis.append(tick);
  }
  const caption = mode === "activity" ? "active share after the first frame, %" : "dense MACs per frame";
  holder.append(make("span", { class: "ramp" }, make("span", { class: "caption" }, caption), bar, axis),
    make("span", { class: "key" }, make("i", { class: "swatch none" }), mode === "activity" ? "not run" : "no MACs"));
}
