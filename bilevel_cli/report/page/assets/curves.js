// What Plotly draws: traces, axes, and labels at the ends of curves.
"use strict";

const UNIFIED = 6; // series up to which one box with the values of all is readable
const BANDS = 8; // curves up to which each has a band around it
const LABELLED = 12; // curves up to which each has its name at its end
const LETTERS = 28; // of such a name
const EARLY_END = 0.15; // of the width: a curve that ends before it has its name inside the plot
const LINE = 15; // pixels of the height of a name
const NARROW = matchMedia("(max-width: 640px)"); // no room for names beside the plot
const ROW = 250; // pixels of a panel, where there are several
const MOST_COLUMNS = 3;
const MOST_FILLED = 0.5; // of the width of a plot by a band

const faded = (rgb, alpha) => rgb.replace("rgb(", "rgba(").replace(")", `, ${alpha})`);

// Plotly reads tags in text: what people named their options is shown as it is.
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
// The beginning and the end, which is where names that are alike differ.
const short = (text) => text.length <= LETTERS ? text : `${text.slice(0, LETTERS / 2)}\u2026${text.slice(1 - LETTERS / 2)}`;

/** The metric of a panel: the chosen one, or that at which its task is compared. */
const metricOf = (panel, chosen) => chosen || report.own[panel];

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

/** The names of the axes of a panel: x and y, x2 and y2, ... */
const axesOf = (panel) => ({ xaxis: panel ? `x${panel + 1}` : "x", yaxis: panel ? `y${panel + 1}` : "y" });

function meanOf(series, metric, axis) {
  const mean = series.means[metric]?.[axis];
  return mean && { ...mean, x: series.grids[mean.grid], y: mean.mean };
}

/** The curves that are compared: the mean of a series, or its runs where there is none. */
function curvesOf(series, chosen, axis) {
  const metric = metricOf(series.panel, chosen);
  const mean = meanOf(series, metric, axis);
  if (mean) return [mean];
  return series.runs.map((run) => points(run, metric, axis)).filter(({ x }) => x.length);
}

/** The traces of a series in grey, behind the others. */
function behind(series, number, metric, axis) {
  const dots = report.pointwise.includes(axis);
  const grey = colour("quiet");
  const name = plain(report.entries[series.entry].label);
  return curvesOf(series, metric, axis).map(({ x, y }) => ({
    x, y, name, showlegend: false, meta: { series: number, entry: series.entry, panel: series.panel, kind: "quiet" },
    mode: dots || x.length === 1 ? "markers" : "lines", line: { color: grey, width: 1 }, marker: { color: grey, size: 4 },
    hovertemplate: `${name}: %{y:.5g}<extra></extra>`, // not as extra, which has the pale colour of the curve
  }));
}

/** The traces of one series, with the one that people read last, on top. */
function tracesOf(series, number, chosen, axis, shown) {
  const metric = metricOf(series.panel, chosen);
  const entry = report.entries[series.entry];
  const line = colour(`c${entry.colour}`);
  const name = plain(entry.label);
  const common = { name, showlegend: false, hoverlabel: { namelength: 40 } };
  const traces = [];
  const add = (kind, trace) => traces.push({ ...common, ...trace, meta: { series: number, entry: series.entry, panel: series.panel, kind } });
  const mean = meanOf(series, metric, axis);
  if (mean && shown.bands) {
    const edge = { x: mean.x, mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
    add("low", { ...edge, y: mean.low });
    add("band", { ...edge, y: mean.high, fill: "tonexty", fillcolor: faded(line, 0.16) });
  }
  const alone = series.runs.filter((run) => run.counted).length === 1;
  for (const run of series.runs) {
    if (run.counted && mean && !shown.singles) continue;
    const at = points(run, metric, axis);
    if (!at.x.length) continue;
    const dots = report.pointwise.includes(axis) || at.x.length === 1;
    add(run.counted ? "single" : "apart", {
      ...at, mode: dots ? "markers" : "lines", marker: { color: line, size: 6, opacity: 0.7 },
      line: { color: line, width: run.counted && alone ? 2.4 : 1, dash: entry.dash },
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
      x: mean.x, y: mean.y, mode: mean.x.length > 1 ? "lines" : "markers",
      line: { color: line, width: 2.4, dash: entry.dash }, marker: { color: line, size: 8 },
      customdata: mean.y.map((value, row) => value === null ? null : mean.high[row] - value),
      hovertemplate: `%{y:.5g} \u00b1 %{customdata:.2g}<extra>${name}</extra>`,
    });
  }
  const compared = series.compared;
  if (compared && metric === report.own[series.panel] && compared.x[axis] !== null && traces.length) {
    add("compared", {
      x: [compared.x[axis]], y: [compared.y], mode: "markers", hoverinfo: "skip", cliponaxis: false,
      marker: { color: line, size: 9, line: { width: 1.5, color: colour("card") } },
    });
  }
  return traces;
}

// ---------------------------------------------------------------- ranges

/** The ranges of a panel in the units of its axes: logarithms where these are logarithmic. */
function rangesOf(traces, log, whole) {
  // Traces are in the order of drawing, the best last.
  const [means, edges, apart, quiet] = [["mean", "single"], ["low", "band"], ["apart"], ["quiet"]]
    .map((kinds) => traces.filter((trace) => kinds.includes(trace.meta.kind)).reverse());
  const compared = means.some(({ y }) => y.some((value) => value !== null)) ? means : apart;
  const bands = compared.map(({ meta }) => edges.filter((edge) => edge.meta.series === meta.series));
  const vertical = scaleOf(compared, bands, quiet, log.y, whole);
  return { x: across(traces, log.x), y: vertical.range, cut: vertical.cut, far: vertical.far.map((place) => compared[place]) };
}

/** The horizontal range of some traces; null where there is nothing to draw. */
function across(traces, log) {
  const drawn = traces.flatMap(({ x }) => Array.from(x)).filter((x) => x !== null && (!log || x > 0)).map((x) => onAxis(x, log));
  if (!drawn.length) return null;
  const [first, last] = ends(drawn);
  const room = (last - first) * 0.015 || Math.abs(last) * 0.05 || 0.5;
  return [first - room, last + room];
}

/** Whether the band of a series fills most of the plot from top to bottom, and so says nothing. */
function hides(low, high, range, log) {
  const [least, most] = log ? range.map((end) => 10 ** end) : range;
  const filled = low.y.filter((y, row) => y !== null && y <= least && high.y[row] >= most);
  return filled.length > MOST_FILLED * low.y.length;
}

/** The traces without bands that fill the plot. */
function withoutFilling(traces, range, log) {
  if (!range) return traces;
  const hidden = traces.filter(({ meta }, place) => meta.kind === "low" && hides(traces[place], traces[place + 1], range, log));
  const series = new Set(hidden.map(({ meta }) => meta.series));
  return traces.filter(({ meta }) => !(["low", "band"].includes(meta.kind) && series.has(meta.series)));
}

/** Marks of broken runs that left the plot stand at the edge where they did. */
function bringIn(traces, range, log) {
  if (!range) return;
  const [low, high] = log.y ? range.map((end) => 10 ** end) : range;
  for (const trace of traces.filter((one) => one.meta.kind === "cross")) {
    trace.y = trace.y.map((y) => Math.min(Math.max(y, low), high));
    trace.cliponaxis = false;
  }
}

// ---------------------------------------------------------------- names at the ends of curves

/** The curves in front that have names at their ends, the best first; none where there are too many. */
function named(traces) {
  const last = new Map();
  for (const trace of traces) {
    if (["mean", "single", "apart"].includes(trace.meta.kind)) last.set(trace.meta.entry, trace);
  }
  const rank = ({ meta }) => report.series[meta.series].rank;
  return NARROW.matches || report.pointwise.includes(state.axis) || report.panels.length > 1 || last.size > LABELLED ? [] : [...last.values()].sort((a, b) => rank(a) - rank(b));
}

function widthOf(text) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  return pen.measureText(text).width;
}

/** The names, each at the right edge of the plot, and as near the end of its curve as others let. */
function labelsOf(traces, x, y, log, height) {
  if (!x || !y) return [];
  const [low, high] = y;
  const found = named(traces).flatMap((trace) => {
    const some = placesOf(trace, log).filter((one) => one.x <= x[1]); // after a zoom
    if (!some.length) return [];
    const end = some[some.length - 1];
    const inside = Math.min(Math.max(end.y, low), high);
    const arrow = end.y > high ? " \u2191" : end.y < low ? " \u2193" : "";
    const at = Math.max(end.x, x[0]);
    return [{ trace, at, inside, arrow, pixel: (high - inside) / (high - low) * height }];
  });
  const early = ({ at }) => at < x[1] - EARLY_END * (x[1] - x[0]);
  for (const one of found) one.wanted = one.pixel;
  for (const some of [found.filter(early), found.filter((one) => !early(one))]) apart(some, height);
  return found.map((one) => {
    const label = {
      xref: "x", yref: "y", x: one.at, y: one.inside, text: `${plain(short(report.entries[one.trace.meta.entry].label))}${one.arrow}`,
      xanchor: "left", align: "left", font: { size: 12, color: one.trace.line.color }, name: "end",
    };
    const leader = { arrowhead: 0, arrowwidth: 1, arrowcolor: faded(one.trace.line.color, 0.5), standoff: 4 };
    if (early(one)) return { ...label, ...leader, showarrow: true, ax: 16, ay: one.pixel - one.wanted, bgcolor: faded(colour("card"), 0.75) };
    return { ...label, ...leader, showarrow: true, axref: "x", ayref: "y", ax: x[1], ay: high - one.pixel / height * (high - low) };
  });
}

/**
 * Moves names that would cover each other, by as little as that takes in least squares: apart() in
 * plots.py says how. Of names at one place the first is above the others.
 */
function apart(names, height) {
  const room = Math.min(LINE, height / Math.max(names.length, 1));
  const order = names.map((one, number) => ({ one, number })).sort((a, b) => a.one.pixel - b.one.pixel || a.number - b.number);
  const pools = [];
  order.forEach(({ one }, number) => {
    let pool = { mean: one.pixel - number * room, count: 1 };
    while (pools.length && pools[pools.length - 1].mean > pool.mean) {
      const before = pools.pop();
      const count = before.count + pool.count;
      pool = { mean: (before.mean * before.count + pool.mean * pool.count) / count, count };
    }
    pools.push(pool);
  });
  const means = pools.flatMap(({ mean, count }) => Array(count).fill(mean));
  const most = height - (names.length - 1) * room;
  order.forEach(({ one }, number) => { one.pixel = Math.min(Math.max(means[number], 0), most) + number * room; });
}

// ---------------------------------------------------------------- layout

/** Everything but the traces. `ranges` has those of each panel that is drawn. */
function layoutOf(traces, metric, axis, log, ranges, together) {
  const ink = colour("soft");
  const grid = colour("grid");
  const line = { gridcolor: grid, zeroline: false, linecolor: colour("line"), tickcolor: grid, automargin: true };
  const panels = ranges.length;
  const columns = panels > 1 ? columnsOf(panels) : 1;
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink },
    margin: { l: 8, r: 12, t: 30, b: 8 },
    hovermode: together ? "x unified" : "closest", hoverdistance: 30,
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink, activecolor: colour("ink") },
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    annotations: [], shapes: [],
  };
  if (panels > 1) {
    const rows = Math.ceil(panels / columns);
    layout.grid = { rows, columns, pattern: "independent", xgap: 0.16, ygap: 0.3 };
    layout.height = rows * ROW + 60;
  }
  ranges.forEach((range, place) => {
    const { xaxis, yaxis } = axesOf(place);
    const suffix = place ? place + 1 : "";
    const below = place + columns >= panels;
    layout[`xaxis${suffix}`] = {
      ...line, type: log.x ? "log" : "linear", ...(range.x ? { range: range.x } : {}), nticks: panels > 1 ? 5 : 0,
      ...(below ? { title: { text: plain(report.axes[axis]), standoff: 8 } } : {}),
    };
    layout[`yaxis${suffix}`] = {
      ...line, type: log.y ? "log" : "linear", ...(range.y ? { range: range.y } : {}), nticks: panels > 1 ? 5 : 8,
      exponentformat: "power", ...(log.y && range.y && range.y[1] - range.y[0] < 3 ? { dtick: "D2" } : {}),
    };
    const title = panels > 1 ? `${report.panels[range.panel]}: ${metricOf(range.panel, metric)}` : metric;
    layout.annotations.push({
      text: plain(title), xref: `${xaxis} domain`, yref: `${yaxis} domain`, x: 0, y: 1, yshift: 6,
      xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: 12.5, color: ink },
    });
    layout.shapes.push(...budgetOf(range, axis, log, `${yaxis} domain`, xaxis));
  });
  const names = panels === 1 ? named(traces).map((trace) => short(report.entries[trace.meta.entry].label)) : [];
  if (names.length) layout.margin.r = 22 + Math.max(...names.map((name) => widthOf(`${name} \u2191`)));
  return layout;
}

const columnsOf = (panels) => NARROW.matches ? 1 : panels === 4 ? 2 : Math.min(panels, MOST_COLUMNS);

/** A line where runs are compared. */
function budgetOf(range, axis, log, yref, xref) {
  const { budget } = report;
  if (!budget || budget.axis !== axis || !range.x || (log.x && budget.limit <= 0)) return [];
  const at = onAxis(budget.limit, log.x);
  if (at < range.x[0] || at > range.x[1]) return [];
  // Of shapes, unlike annotations, Plotly takes the logarithm itself.
  const x = budget.limit;
  return [{ type: "line", xref, yref, x0: x, x1: x, y0: 0, y1: 1, layer: "below", line: { color: colour("soft"), width: 1, dash: "dot" } }];
}
