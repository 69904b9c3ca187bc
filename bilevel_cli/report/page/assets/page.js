// The curves, their controls, and sorting. All numbers come with the page; nothing is fetched.
"use strict";

const report = JSON.parse(document.getElementById("data").textContent);
const plot = document.getElementById("plot");
const byId = (id) => document.getElementById(id);
const state = { metric: report.metric, axis: report.axis, hidden: new Set() };
const UNIFIED = 6; // series up to which one box with the values of all is readable

const EARLY = 0.1; // of the curves may leave the plot, where it would take more than half of its
const WORTH = 2; // height, as in curves.py

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

const faded = (rgb, alpha) => rgb.replace("rgb(", "rgba(").replace(")", `, ${alpha})`);

function nameTheme() {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
}

byId("theme").addEventListener("click", () => {
  root.style.colorScheme = isDark() ? "light" : "dark";
  nameTheme();
  draw();
});
prefersDark.addEventListener("change", () => { nameTheme(); draw(); });

// ---------------------------------------------------------------- curves

// Plotly reads tags in text: what people named their options is shown as it is.
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

/** x and y of a run, without the rows in which the cost is unknown. */
function points(run, metric, axis) {
  const table = run.tables[report.metrics[metric]];
  const x = table && table.x[axis];
  const y = table && table.y[metric];
  if (!x || !y) return { x: [], y: [] };
  const rows = x.map((_, row) => row).filter((row) => x[row] !== null);
  return { x: rows.map((row) => x[row]), y: rows.map((row) => y[row]) };
}

function lastOf({ x, y }) {
  for (let row = y.length - 1; row >= 0; row--) if (y[row] !== null) return { x: x[row], y: y[row] };
  return null;
}

/** The traces of one series, with the one that people read last, on top. */
function tracesOf(series, number, metric, axis, shown) {
  const line = colour(`c${series.colour}`);
  const name = plain(series.label);
  const common = { visible: !state.hidden.has(number), name, showlegend: false, hoverlabel: { namelength: 40 } };
  const traces = [];
  const add = (kind, trace) => traces.push({ ...common, ...trace, meta: { series: number, kind } });
  const mean = series.means[metric]?.[axis];
  const grid = mean && series.grids[mean.grid];
  if (mean && shown.bands) {
    const edge = { x: grid, mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
    add("low", { ...edge, y: mean.low });
    add("band", { ...edge, y: mean.high, fill: "tonexty", fillcolor: faded(line, 0.16) });
  }
  const alone = series.runs.filter((run) => run.counted).length === 1;
  for (const run of series.runs) {
    if (run.counted && mean && !shown.singles) continue;
    const at = points(run, metric, axis);
    if (!at.x.length) continue;
    const dots = report.pointwise.includes(axis);
    add(run.counted ? "single" : "apart", {
      ...at, mode: dots ? "markers" : "lines", marker: { color: line, size: 6, opacity: 0.7 },
      line: { color: line, width: run.counted && alone ? 2.4 : 1, dash: series.dash },
      opacity: run.counted && alone ? 1 : 0.55,
      hovertemplate: `%{y:.5g}<extra>${plain(run.name)}</extra>`,
    });
    const last = run.broken && lastOf(at);
    if (last) {
      add("cross", {
        x: [last.x], y: [last.y], mode: "markers", customdata: [last.y],
        marker: { symbol: "x", size: 11, color: line, line: { width: 1, color: colour("card") } },
        hovertemplate: `${run.status} after %{customdata:.5g}<extra>${plain(run.name)}</extra>`,
      });
    }
  }
  if (mean) {
    add("mean", {
      x: grid, y: mean.mean, mode: grid.length > 1 ? "lines" : "markers",
      line: { color: line, width: 2.4, dash: series.dash }, marker: { color: line, size: 8 },
      customdata: mean.mean.map((value, row) => value === null ? null : mean.high[row] - value),
      hovertemplate: `%{y:.5g} \u00b1 %{customdata:.2g}<extra>${name}</extra>`,
    });
  }
  // Of a series without a number there is still a trace, so that hiding it means the same.
  if (!traces.length) add("empty", { x: [null], y: [null], mode: "lines", hoverinfo: "skip" });
  return traces;
}

/** The vertical range in which curves are told apart, as `window` in curves.py has it. */
function rangeOf(traces, log, whole) {
  const [compared, edges, others] = [["mean", "single"], ["low", "band"], ["apart"]].map((kinds) => traces
    .filter((trace) => trace.visible && kinds.includes(trace.meta.kind))
    .flatMap((trace) => trace.y.map((y, row) => ({ x: trace.x[row], y })))
    .filter(({ y }) => y !== null && (!log || y > 0))
    .map(({ x, y }) => ({ x, y: log ? Math.log10(y) : y })));
  const points = compared.length ? compared : others;
  if (!points.length) return { range: null, cut: false };
  const [first, last] = ends(points.map(({ x }) => x));
  const early = EARLY * (last - first);
  const late = ({ x }) => x >= first + early;
  const [all, some] = [points, points.filter(late)].map((found) => ends(found.map(({ y }) => y)));
  const near = ends(points.filter(late).map(({ x }) => x))[0] <= first + 2 * early;
  const cut = !whole && near && some[1] > some[0] && all[1] - all[0] > WORTH * (some[1] - some[0]);
  let [low, high] = cut ? some : all;
  const height = high - low;
  const [least, most] = ends([low, high, ...edges.filter((edge) => !cut || late(edge)).map(({ y }) => y)]);
  low = Math.max(least, low - height / 2);
  high = Math.min(most, high + height / 2);
  const room = (high - low) * 0.06 || Math.abs(high) * 0.06 || 0.5;
  return { range: [low - room, high + room], cut };
}

const ends = (values) => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];

function layoutOf(metric, axis, log, range, together) {
  const ink = colour("soft");
  const grid = colour("grid");
  const line = { gridcolor: grid, zeroline: false, linecolor: colour("line"), tickcolor: grid, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink },
    margin: { l: 8, r: 12, t: 26, b: 8 },
    hovermode: together ? "x unified" : "closest",
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink, activecolor: colour("ink") },
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: { ...line, type: log.x ? "log" : "linear", title: { text: plain(report.axes[axis]), standoff: 8 } },
    yaxis: {
      ...line, type: log.y ? "log" : "linear", ...(range ? { range } : {}), nticks: 8,
      exponentformat: "power", ...(log.y && range && range[1] - range[0] < 3 ? { dtick: "D2" } : {}),
    },
    annotations: [{
      text: plain(metric), xref: "paper", yref: "paper", x: 0, y: 1, yshift: 24,
      xanchor: "left", yanchor: "top", showarrow: false, font: { size: 12.5, color: ink },
    }],
  };
}

function draw() {
  const metric = state.metric;
  const log = { x: byId("log-x").checked, y: byId("log-y").checked };
  const shown = { bands: byId("bands").checked, singles: byId("singles").checked };
  const traces = report.series.flatMap((series, number) => tracesOf(series, number, metric, state.axis, shown));
  const { range, cut } = rangeOf(traces, log.y, byId("whole").checked);
  for (const trace of traces.filter((one) => one.meta.kind === "cross" && range)) {
    const [low, high] = log.y ? range.map((end) => 10 ** end) : range;
    trace.y = trace.y.map((y) => Math.min(Math.max(y, low), high)); // at the edge it left through
    trace.cliponaxis = false;
  }
  const few = report.series.length - state.hidden.size <= UNIFIED;
  const together = few && !shown.singles && !report.pointwise.includes(state.axis);
  Plotly.react(plot, traces, layoutOf(metric, state.axis, log, range, together), {
    responsive: true, displaylogo: false, displayModeBar: "hover", plotlyServerURL: "",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], // and none that uploads
  });
  byId("plot-note").textContent = note(traces, log, cut);
}

function note(traces, log, cut) {
  const kinds = new Set(traces.filter((trace) => trace.visible).map((trace) => trace.meta.kind));
  const lines = [];
  if (!["mean", "single", "apart"].some((kind) => kinds.has(kind))) lines.push("No visible series has this number.");
  if (cut) lines.push("The first values are out of view: see the full range.");
  if (report.pointwise.includes(state.axis)) lines.push("A point for each reading of each run: memory is no grid to average over.");
  if (kinds.has("cross")) lines.push("A cross ends a run that broke; it is in no mean.");
  if (log.x && !report.pointwise.includes(state.axis)) lines.push("A logarithmic axis leaves out what cost nothing yet.");
  return lines.join(" ");
}

// ---------------------------------------------------------------- controls

byId("metric").value = state.metric;
byId("metric").addEventListener("change", (event) => { state.metric = event.target.value; draw(); });
for (const radio of document.querySelectorAll("input[name=axis]")) {
  radio.checked = radio.value === state.axis;
  radio.addEventListener("change", () => { state.axis = radio.value; draw(); });
}
for (const id of ["log-x", "log-y", "bands", "singles", "whole"]) byId(id).addEventListener("change", draw);

const entries = [...document.querySelectorAll(".legend button")];

function hide(hidden) {
  state.hidden = hidden;
  entries.forEach((entry, number) => entry.setAttribute("aria-pressed", String(!hidden.has(number))));
  draw();
}

entries.forEach((entry, number) => {
  entry.addEventListener("click", () => {
    const hidden = new Set(state.hidden);
    if (!hidden.delete(number)) hidden.add(number);
    hide(hidden);
  });
  entry.addEventListener("dblclick", () => {
    const others = entries.map((_, other) => other).filter((other) => other !== number);
    const already = others.every((other) => state.hidden.has(other));
    hide(new Set(already ? [] : others));
  });
});

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
