// The curves of results/report.html. `state` is what is shown; whoever changes it calls list() and draw().

const sets = JSON.parse(document.getElementById("data").textContent);
const controls = document.getElementById("controls");
const chart = document.getElementById("chart");
const rows = document.getElementById("methods");
const TIMES = [["hours", 3600], ["minutes", 60], ["seconds", 1]];
const BROKEN = [4, 2]; // the dash of the paper's solid lines behind ours

// hidden: names of curves, kept from one set to the next; zoom: {x: [min, max], y: [min, max] or null} or null
const state = {set: 0, x: "step", xlog: false, ylog: true, hidden: new Set(), zoom: null};
let plot = null;
let focused = null; // index of the series under the cursor
let shown = []; // the curves drawn; `index` is the place of each in the chart's series, `cell` that of its value

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const last = (values) => values[values.length - 1];
const curves = () => sets[state.set].curves;
const mixed = () => new Set(curves().map((curve) => curve.ours)).size === 2;
const name = (curve) => (mixed() && !curve.ours ? `${curve.label}, the paper's` : curve.label);
const drawable = (curve) => curve[state.x].length > 0;

// How a curve is drawn: the paper's thin, light and broken where ours are in front of it.
function look(curve) {
  const behind = mixed() && !curve.ours;
  const width = curve.ours ? 2.2 : behind ? 1.2 : 1.7;
  const dash = (curve.dash.length || !behind ? curve.dash : BROKEN).map((length) => length * width);
  return {stroke: behind ? faded(curve.colour, 0.6) : curve.colour, width, dash};
}

function faded(colour, share) {
  return colour + Math.round(share * 255).toString(16).padStart(2, "0");
}

function exact(value) {
  return value >= 1000 ? Math.round(value).toLocaleString("en") : value.toFixed(value >= 100 ? 1 : 2);
}

function short(value) {
  for (const [unit, size] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["K", 1e3]]) {
    if (Math.abs(value) >= size) return `${+(value / size).toPrecision(4)}${unit}`;
  }
  return `${+value.toPrecision(4)}`;
}

// The unit of time for the longest curve, and its seconds.
function time() {
  const longest = Math.max(0, ...curves().map((curve) => last(curve.seconds) || 0));
  return TIMES.find(([, seconds]) => longest >= 2 * seconds) || last(TIMES);
}

function xs(curve) {
  const unit = state.x === "seconds" ? time()[1] : 1;
  return curve[state.x].map((value) => value / unit);
}

// Ticks of a logarithmic axis: even ones inside a decade, else 1, 2, 5 in each.
function ticks(min, max) {
  const found = [];
  if (max / min < 10) {
    const rough = (max - min) / 6, power = 10 ** Math.floor(Math.log10(rough));
    const gap = [1, 2, 5, 10].map((m) => m * power).find((size) => size >= rough);
    for (let i = Math.ceil(min / gap); i * gap <= max; i++) found.push(+(i * gap).toPrecision(12));
  } else {
    for (let power = 10 ** Math.floor(Math.log10(min)); power <= max; power *= 10) {
      found.push(...[1, 2, 5].map((m) => +(m * power).toPrecision(12)).filter((v) => v >= min && v <= max));
    }
  }
  return found;
}

function axis(log, label, size) {
  const font = `13px ${css("--sans")}`;
  const own = log ? {splits: (u, i, min, max) => ticks(min, max), filter: (u, splits) => splits} : {};
  return {
    label, size, font, labelFont: font, labelSize: 22, gap: 6, stroke: css("--muted"), ticks: {show: false},
    grid: {stroke: css("--grid"), width: 1}, values: (u, splits) => splits.map(short), ...own,
  };
}

function scale(log, margin) {
  const range = (u, min, max) => {
    if (min === null) return [1, 10];
    if (log) return [min / (1 + margin), max * (1 + margin)];
    const space = margin * (max - min || max);
    return [min - space, max + space];
  };
  return {time: false, distr: log ? 3 : 1, range};
}

// The sample of series i that is nearest to the cursor's: each curve has points of its own. None far from its ends.
function nearest(u, i, index) {
  const xs = u.data[0], ys = u.data[i];
  let before = index, after = index;
  while (before >= 0 && ys[before] == null) before--;
  while (after < ys.length && ys[after] == null) after++;
  const gap = (at) => (at in xs ? Math.abs(xs[index] - xs[at]) : Infinity);
  const found = gap(before) <= gap(after) ? before : after;
  const beyond = before < 0 || after === ys.length;
  return beyond && gap(found) > 0.02 * (u.scales.x.max - u.scales.x.min) ? null : found;
}

function draw() {
  if (plot) plot.destroy();
  plot = focused = null;
  shown = curves().filter((curve) => drawable(curve) && !state.hidden.has(name(curve)));
  const along = {step: "steps", tokens: "tokens", seconds: `${time()[0]} of training`}[state.x];
  chart.setAttribute("aria-label", `${sets[state.set].group}, ${sets[state.set].title}: perplexity over ${along}`);
  const tables = [], series = [{}], bands = [];
  const add = (options) => series.push({points: {show: false}, ...options}) - 1;
  for (const curve of [...shown].sort((a, b) => a.ours - b.ours)) { // the later ones lie above
    const ys = curve.low ? [curve.perplexity, curve.low, curve.high] : [curve.perplexity];
    tables.push([xs(curve), ...ys]);
    curve.index = add(look(curve));
    if (curve.low) {
      const edges = ["low", "high"].map(() => add({stroke: "transparent", width: 0}));
      bands.push({series: edges.reverse(), fill: faded(curve.colour, 0.16)});
    }
  }
  const options = {
    width: chart.clientWidth, height: chart.clientHeight, legend: {show: false}, padding: [12, 12, 0, 0], series, bands,
    scales: {x: scale(state.xlog, 0.015), y: scale(state.ylog, 0.03)},
    axes: [axis(state.xlog, along, 34), axis(state.ylog, "evaluation perplexity", 50)],
    cursor: {
      dataIdx: nearest, drag: {x: true, y: true, uni: 40, dist: 6, setScale: false}, bind: {dblclick: () => reset},
      focus: {prox: 24, dist: (u, i, index, at, cursor) => (series[i].width ? at - cursor : Infinity)},
    },
    focus: {alpha: 0.3},
    hooks: {setCursor: [read], setSeries: [focus], setSelect: [select]},
  };
  chart.textContent = "";
  if (tables.length) {
    plot = new uPlot(options, uPlot.join(tables), chart);
    if (state.zoom) zoom();
    touch(plot.over);
  }
  read();
}

function zoom() {
  const {x, y} = state.zoom;
  plot.batch(() => {
    plot.setScale("x", {min: x[0], max: x[1]});
    if (y) plot.setScale("y", {min: y[0], max: y[1]});
  });
}

// What was dragged over becomes the zoom.
function select(u) {
  const {left, top, width, height} = u.select;
  if (!width && !height) return;
  const values = (key, from, to) => [u.posToVal(from, key), u.posToVal(to, key)];
  // A selection of the whole height is one along x alone: perplexity then fits itself to what is left.
  const whole = height >= u.over.clientHeight - 1;
  state.zoom = {x: values("x", left, left + width), y: whole ? null : values("y", top + height, top)};
  u.setSelect({left: 0, top: 0, width: 0, height: 0}, false);
  zoom();
}

function reset() {
  state.zoom = null;
  draw();
}

// Make `factor` times as much of x visible, around the cursor or the middle.
function magnify(factor) {
  if (!plot) return;
  const full = plot.over.clientWidth, middle = plot.cursor.left >= 0 ? plot.cursor.left : full / 2;
  const from = plot.posToVal(middle * (1 - factor), "x"), to = plot.posToVal(middle + (full - middle) * factor, "x");
  const [first, end] = [plot.data[0][0], last(plot.data[0])];
  state.zoom = from <= first && to >= end ? null : {x: [Math.max(from, first), Math.min(to, end)], y: null};
  state.zoom ? zoom() : reset();
}

// A finger drags a selection sideways; up and down it scrolls the page, as touch-action says.
function touch(over) {
  const events = {pointerdown: "mousedown", pointermove: "mousemove", pointerup: "mouseup", pointercancel: "mouseup"};
  for (const [pointer, mouse] of Object.entries(events)) {
    over.addEventListener(pointer, ({pointerType, clientX, clientY}) => {
      if (pointerType !== "touch") return;
      if (pointer === "pointercancel") plot.setSelect({left: 0, top: 0, width: 0, height: 0}, false);
      over.dispatchEvent(new MouseEvent(mouse, {clientX, clientY, movementX: 1, bubbles: true}));
    });
  }
}

function focus(u, i) {
  focused = i;
  read();
}

// Write the perplexities at the cursor, or where there is none at the ends, into the list and the line above.
function read() {
  const over = plot && plot.cursor.left >= 0 && plot.cursor.idx !== null;
  const x = over && plot.data[0][plot.cursor.idx];
  const where = !over ? "" : state.x === "step" ? `step ${x.toLocaleString("en")}`
    : `${short(x)} ${state.x === "tokens" ? "tokens" : time()[0]}`;
  document.getElementById("when").textContent = over ? `at ${where}` : "at its end";
  let line = where;
  for (const curve of shown) {
    const columns = [curve.perplexity, ...(curve.low ? [curve.low, curve.high] : [])];
    const at = over ? plot.cursor.idxs[curve.index] : null;
    const values = columns.map((ys, k) => (over ? plot.data[curve.index + k][at] : last(ys)));
    const [value, ...range] = over && at === null ? [""] : values.map(exact);
    curve.cell.textContent = range.length ? `${value} (${range.join("–")})` : value;
    if (over && curve.index === focused) line += `, ${name(curve)}: ${curve.cell.textContent}`;
  }
  const missing = curves().some(drawable) ? "No curve is chosen." : "The paper gives no times for these.";
  document.getElementById("readout").textContent = shown.length ? line : missing;
}

function swatch(curve) {
  const {stroke, width, dash} = look(curve);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("width", 30);
  svg.setAttribute("height", 8);
  svg.setAttribute("aria-hidden", "true");
  svg.innerHTML = `<path d="M0 4H30" stroke="${stroke}" stroke-width="${width}" stroke-dasharray="${dash.join(" ")}"/>`;
  return svg;
}

// The curves of the set, best last perplexity first, each with its box to tick.
function list() {
  const end = (curve) => last(curve.perplexity);
  rows.replaceChildren(...[...curves()].sort((a, b) => end(a) - end(b)).map((curve) => {
    const row = document.createElement("tr"), label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), {type: "checkbox", disabled: !drawable(curve)});
    box.checked = drawable(curve) && !state.hidden.has(name(curve));
    box.addEventListener("change", () => {
      state.hidden[box.checked ? "delete" : "add"](name(curve));
      curve.cell.textContent = "";
      draw();
    });
    label.append(box, swatch(curve), name(curve));
    const head = Object.assign(document.createElement("th"), {scope: "row"});
    head.append(label);
    curve.cell = Object.assign(document.createElement("td"), {textContent: drawable(curve) ? "" : "no time known"});
    row.append(head, curve.cell);
    const point = (i) => plot && plot.setSeries(i, {focus: true});
    row.addEventListener("mouseenter", () => point(shown.includes(curve) ? curve.index : null));
    row.addEventListener("mouseleave", () => point(null));
    return row;
  }));
  document.getElementById("note").textContent = sets[state.set].note;
}

function choose(hide) {
  for (const curve of curves()) state.hidden[hide ? "add" : "delete"](name(curve));
  list();
  draw();
}

const KEYS = {
  ArrowLeft: () => move(-1), ArrowRight: () => move(1), "+": () => magnify(0.5), "=": () => magnify(0.5),
  "-": () => magnify(2), Escape: reset,
};

// Move the reading by a hundredth of the width, at the height of the best curve.
function move(direction) {
  if (!plot) return;
  const full = plot.over.clientWidth, from = plot.cursor.left >= 0 ? plot.cursor.left : full / 2;
  plot.setCursor({left: Math.min(Math.max(from + (direction * full) / 100, 0), full - 1), top: 0});
}

sets.forEach(({group, title}, i) => {
  const found = [...controls.set.children].find((element) => element.label === group);
  const parent = found || controls.set.appendChild(Object.assign(document.createElement("optgroup"), {label: group}));
  parent.append(new Option(title, i));
});
controls.addEventListener("change", () => {
  const next = {set: +controls.set.value, x: controls.x.value};
  if (next.set !== state.set || next.x !== state.x || controls.xlog.checked !== state.xlog) state.zoom = null;
  Object.assign(state, next, {xlog: controls.xlog.checked, ylog: controls.ylog.checked});
  list();
  draw();
});
controls.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("zoom-in").addEventListener("click", () => magnify(0.5));
document.getElementById("zoom-out").addEventListener("click", () => magnify(2));
document.getElementById("zoom-reset").addEventListener("click", reset);
document.getElementById("all").addEventListener("click", () => choose(false));
document.getElementById("none").addEventListener("click", () => choose(true));
chart.addEventListener("keydown", (event) => {
  if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[event.key]();
});
new ResizeObserver(() => plot && plot.setSize({width: chart.clientWidth, height: chart.clientHeight})).observe(chart);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
list();
draw();
