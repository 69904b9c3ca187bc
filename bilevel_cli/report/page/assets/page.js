// The plot, its legend and its controls, and sorting. All numbers come with the page; nothing is fetched.
"use strict";

const report = JSON.parse(document.getElementById("data").textContent);
const plot = document.getElementById("plot");
const byId = (id) => document.getElementById(id);
const inFront = report.entries.map((_, number) => number).filter((number) => report.entries[number].front);
const state = { metric: report.metric, axis: report.axis, front: new Set(inFront) };
const crowded = inFront.length < report.entries.length;
const ranked = report.series.map((_, number) => number).sort((a, b) => report.series[a].rank - report.series[b].rank);

// ---------------------------------------------------------------- colours

const root = document.documentElement;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.style.colorScheme || (prefersDark.matches ? "dark" : "light")) === "dark";

function colour(name) {
  const probe = byId("theme").appendChild(document.createElement("i"));
  probe.style.color = `var(--${name})`; // resolves light-dark(), which reading a variable does not
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function nameTheme() {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
}

byId("theme").addEventListener("click", () => {
  root.style.colorScheme = isDark() ? "light" : "dark";
  nameTheme();
  draw();
});
prefersDark.addEventListener("change", () => { nameTheme(); draw(); });

// Paper is white, whatever the page is.
let scheme = "";
addEventListener("beforeprint", () => { scheme = root.style.colorScheme; root.style.colorScheme = "light"; draw(); });
addEventListener("afterprint", () => { root.style.colorScheme = scheme; draw(); });

// ---------------------------------------------------------------- the plot

let drawn = { ranges: [], traces: [], log: {} };

function draw() {
  const { metric, axis, front } = state;
  const log = { x: byId("log-x").checked, y: byId("log-y").checked };
  const shown = { bands: byId("bands").checked && front.size <= BANDS, singles: byId("singles").checked };
  const ordered = [...ranked].reverse(); // the best on top
  const quiet = byId("context").checked ? ordered.filter((number) => !front.has(report.series[number].entry)) : [];
  const loud = ordered.filter((number) => front.has(report.series[number].entry));
  const all = [
    ...quiet.flatMap((number) => behind(report.series[number], number, metric, axis)),
    ...loud.flatMap((number) => tracesOf(report.series[number], number, metric, axis, shown)),
  ];
  const filled = report.panels.map((_, panel) => panel)
    .filter((panel) => all.some(({ meta }) => meta.panel === panel));
  const panels = filled.length ? filled : [0];
  const ranges = [];
  const traces = panels.flatMap((panel) => {
    const own = all.filter(({ meta }) => meta.panel === panel);
    const found = rangesOf(own, log, byId("whole").checked);
    ranges.push({ panel, ...found });
    bringIn(own, found.y, log);
    return withoutFilling(own, found.y, log.y);
  }).sort((a, b) => layerOf(a) - layerOf(b));
  for (const trace of traces) Object.assign(trace, axesOf(Math.max(panels.indexOf(trace.meta.panel), 0)));
  const together = front.size <= UNIFIED && !quiet.length && !shown.singles && !report.pointwise.includes(axis);
  drawn = { ranges, traces, log };
  const layout = layoutOf(traces, metric, axis, log, ranges, together);
  plot.style.height = layout.height ? `${layout.height}px` : "";
  if (panels.length === 1) layout.annotations.push(...labelsOf(traces, ranges[0].x, ranges[0].y, log, heightOfPlot()));
  Plotly.react(plot, traces, layout, {
    responsive: true, displaylogo: false, displayModeBar: "hover", plotlyServerURL: "",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], // and none that uploads
  });
  byId("plot-note").textContent = note(traces, log, ranges, quiet.length, all.length - traces.length);
  small(log);
}

/** What is drawn over what: bands below, dashes on top of solid lines so that two curves that coincide are both seen. */
function layerOf({ meta }) {
  const layers = { quiet: 0, low: 1, band: 1, apart: 2, single: 3, mean: 4, cross: 5, compared: 6 };
  return layers[meta.kind] + report.entries[meta.entry].layer * (["single", "mean"].includes(meta.kind) ? 0.1 : 0);
}

const heightOfPlot = () => plot._fullLayout?.yaxis?._length ?? plot.clientHeight - 78;

/** After a zoom, names stand at the new edge. */
function rename(event) {
  if (drawn.ranges.length !== 1 || !Object.keys(event).some((key) => /^[xy]axis\.(range|autorange)/.test(key))) return;
  const { xaxis, yaxis } = plot._fullLayout;
  const names = labelsOf(drawn.traces, [...xaxis.range], [...yaxis.range], drawn.log, heightOfPlot());
  const others = plot.layout.annotations.filter((one) => one.name !== "end");
  Plotly.relayout(plot, { annotations: [...others, ...names] });
}

function note(traces, log, ranges, quiet, filling) {
  const kinds = new Set(traces.map((trace) => trace.meta.kind));
  const lines = [];
  if (byId("bands").checked && state.front.size > BANDS) lines.push(`Bands are drawn around at most ${BANDS} curves.`);
  if (!["mean", "single", "apart", "quiet"].some((kind) => kinds.has(kind))) lines.push("No visible series has this number.");
  const empty = report.panels.filter((_, panel) => !ranges.some((range) => range.panel === panel));
  if (empty.length && ranges.some((range) => range.x)) lines.push(`Without this number: ${empty.join("; ")}.`);
  if (quiet) lines.push(`${quiet} more in grey: point at a curve to see whose it is, press a name to bring it to the front.`);
  if (ranges.some(({ cut }) => cut)) lines.push("The first values are out of view: see the full range.");
  const far = [...new Set(ranges.flatMap((range) => range.far).map(({ meta }) => report.entries[meta.entry].label))];
  if (far.length) lines.push(`Far from the others and out of view: ${far.join("; ")}. See the full range.`);
  if (filling) lines.push("Bands wider than the plot are left out.");
  if (kinds.has("compared")) lines.push("A dot is the number in the table, where runs are compared.");
  if (report.pointwise.includes(state.axis)) lines.push("A point for each reading of each run: memory is no grid to average over.");
  if (kinds.has("cross")) lines.push("A cross ends a run that broke; it is in no mean.");
  if (log.x && !report.pointwise.includes(state.axis)) lines.push("A logarithmic axis leaves out what cost nothing yet.");
  return lines.join(" ");
}

// ---------------------------------------------------------------- one curve among all

const entries = [...document.querySelectorAll(".legend button")];
const rows = [...document.querySelectorAll("[data-entry]")];

/** Shows which curve, name and row belong together; null ends it. */
function light(entry) {
  for (const one of document.querySelectorAll(".lit")) one.classList.remove("lit");
  plot.classList.toggle("lighting", entry !== null);
  if (entry === null) return;
  for (const one of rows.filter((row) => row.dataset.entry === String(entry))) one.classList.add("lit");
  for (const group of plot.querySelectorAll(".scatterlayer .trace")) {
    if (group.__data__[0].trace.meta?.entry !== entry) continue;
    group.classList.add("lit");
    group.style.setProperty("--own", `var(--c${report.entries[entry].colour})`);
    if (report.panels.length === 1) group.parentNode.append(group); // over the others
  }
}

for (const row of rows) {
  const entry = Number(row.dataset.entry);
  for (const event of ["pointerenter", "focusin"]) row.addEventListener(event, () => light(entry));
  for (const event of ["pointerleave", "focusout"]) row.addEventListener(event, () => light(null));
}

/** In each entry of the legend a small plot of its curve over all others. */
function small(log) {
  const on = byId("small").checked && report.panels.length === 1;
  document.querySelector(".legend").classList.toggle("plots", on);
  for (const one of document.querySelectorAll(".legend .small")) one.remove();
  if (!on) return;
  const { metric, axis } = state;
  const curves = report.series.map((series) => curvesOf(series, metric, axis));
  const half = Math.ceil(ranked.length / 2);
  const [better, worse] = [ranked.slice(0, half), ranked.slice(half)].map((some) => some.flatMap((number) => curves[number]));
  const range = { x: across([...better, ...worse], log.x), y: scaleOf(better, [], worse, log.y, byId("whole").checked).range };
  if (!range.x || !range.y) return;
  const paths = curves.map((some) => some.map((curve) => pathOf(curve, range, log)).join(""));
  const all = `<svg class="small" width="0" height="0"><path id="all-curves" d="${paths.join("")}"/></svg>`;
  document.querySelector(".legend").insertAdjacentHTML("afterbegin", `<li class="small">${all}</li>`);
  report.series.forEach((series, number) => {
    const own = `<path class="own" style="stroke: var(--c${report.entries[series.entry].colour})" d="${paths[number]}"/>`;
    const box = `<svg class="small" viewBox="0 0 160 80" aria-hidden="true"><use href="#all-curves"/>${own}</svg>`;
    entries[series.entry].insertAdjacentHTML("beforeend", box);
  });
}

function pathOf(curve, { x, y }, log) {
  const place = (value, [low, high], from, to) => (from + (value - low) / (high - low) * (to - from)).toFixed(1);
  const points = placesOf(curve, log).map((point) => `${place(point.x, x, 0, 160)} ${place(point.y, y, 80, 0)}`);
  return points.length ? `M${points.join("L")}` : "";
}

// ---------------------------------------------------------------- controls

byId("metric").value = state.metric;
byId("metric").addEventListener("change", (event) => { state.metric = event.target.value; draw(); });
for (const radio of document.querySelectorAll("input[name=axis]")) {
  radio.checked = radio.value === state.axis;
  radio.addEventListener("change", () => { state.axis = radio.value; draw(); });
}
byId("context").checked = crowded;
byId("small").closest("label").hidden = !crowded || report.panels.length > 1;
byId("picks").hidden = !crowded;
for (const id of ["log-x", "log-y", "bands", "singles", "whole", "context", "small"]) byId(id).addEventListener("change", draw);
NARROW.addEventListener("change", draw);

function show(front) {
  state.front = front;
  entries.forEach((entry, number) => entry.setAttribute("aria-pressed", String(front.has(number))));
  draw();
}

entries.forEach((entry, number) => {
  entry.addEventListener("click", () => {
    const front = new Set(state.front);
    if (!front.delete(number)) front.add(number);
    show(front);
  });
  entry.addEventListener("dblclick", () => {
    const alone = state.front.size === 1 && state.front.has(number);
    show(new Set(alone ? inFront : [number]));
  });
});
byId("pick-best").addEventListener("click", () => show(new Set(inFront)));
byId("pick-all").addEventListener("click", () => show(new Set(entries.keys())));
byId("pick-none").addEventListener("click", () => show(new Set()));

// ---------------------------------------------------------------- sorting

/** Numbers by size, words by the alphabet; what is missing comes last in both directions. */
function sort(table, column, descending) {
  const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const difference = isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
    return descending ? -difference : difference;
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const descending = header.getAttribute("aria-sort") === "ascending"
      || (!header.hasAttribute("aria-sort") && header.dataset.first === "descending");
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sort(header.closest("table"), header.cellIndex, descending);
  });
}

nameTheme();
draw();
plot.on("plotly_hover", ({ points }) => { if (plot._fullLayout.hovermode === "closest") light(points[0].data.meta.entry); });
plot.on("plotly_unhover", () => light(null));
plot.on("plotly_relayout", rename);
