// The vertical range in which curves can be told apart. The rules and the numbers are those of
// bilevel_cli/report/show/scale.py, which says what they are for.
"use strict";

const EARLY = 0.1;
const WORTH = 2;
const FAR = 20;
const FEWEST = 3;
const ROOM = 0.06;

const ends = (values) => [values.reduce((a, b) => Math.min(a, b), Infinity), values.reduce((a, b) => Math.max(a, b), -Infinity)];
const around = (extents) => [ends(extents.map(([low]) => low))[0], ends(extents.map(([, high]) => high))[1]];
const heightOf = ([low, high]) => high - low;
const extentOf = (points) => ends(points.map(({ y }) => y));

const onAxis = (value, log) => log ? Math.log10(value) : value;

/** The points of a trace that can be drawn, with the logarithms of a logarithmic axis. */
function pointsOf({ x, y }, log) {
  return Array.from(y, (value, row) => ({ x: x[row], y: value }))
    .filter(({ y }) => y !== null && (!log || y > 0))
    .map(({ x, y }) => ({ x, y: onAxis(y, log) }));
}

/** The points of a trace that can be drawn, in the units of both axes. */
function placesOf(trace, log) {
  return pointsOf(trace, log.y).filter(({ x }) => !log.x || x > 0).map(({ x, y }) => ({ x: onAxis(x, log.x), y }));
}

function lateOf(points) {
  const first = points[0].x;
  const from = first + EARLY * (points[points.length - 1].x - first);
  const late = points.filter(({ x }) => x >= from);
  return late.length ? late : points;
}

/**
 * The range of some curves, the best first, with the bands around them and others in grey behind.
 * Each is a trace { x, y }; of each curve `bands` has the traces of both edges, if it has a band. `far` has the positions of the curves that are out of view.
 */
function scaleOf(curves, bands, behind, log, whole) {
  const all = curves.map((curve) => pointsOf(curve, log));
  const numbers = all.map((_, number) => number).filter((number) => all[number].length);
  if (!numbers.length) {
    return behind.length ? { ...scaleOf(behind, [], [], log, whole), far: [] } : { range: null, cut: false, far: [] };
  }
  const finite = numbers.map((number) => all[number]);
  const late = finite.map(lateOf);
  const [height, after] = [finite, late].map((some) => heightOf(around(some.map(extentOf))));
  const cut = !whole && Math.max(...late.map((some) => some.length)) > 1 && height > WORTH * after && after > 0;
  const part = (points) => cut ? lateOf(points) : points;
  const extents = (cut ? late : finite).map(extentOf);
  const kept = whole ? extents.map((_, place) => place) : together(extents);
  const far = numbers.filter((_, place) => !kept.includes(place));
  let [low, high] = around(kept.map((place) => extents[place]));
  widen(bands.filter((_, number) => !far.includes(number)).flat(), 0.5);
  widen(behind, whole ? Infinity : 1);
  const room = ROOM * (high - low) || ROOM * Math.abs(high) || 0.5;
  return { range: [low - room, high + room], cut, far };

  /** Widens the range by what others take, and by some share of its height at most. */
  function widen(traces, share) {
    const others = traces.map((trace) => pointsOf(trace, log)).filter((points) => points.length);
    if (!others.length) return;
    const [least, most] = around(others.map((points) => extentOf(part(points))));
    const room = share === Infinity ? Infinity : share * (high - low);
    [low, high] = [Math.min(low, Math.max(least, low - room)), Math.max(high, Math.min(most, high + room))];
  }
}

/** The positions of the extents that share a scale, the first among them. */
function together(extents) {
  let kept = extents.map((_, place) => place);
  if (extents.length < FEWEST) return kept;
  for (;;) {
    const most = heightOf(around(kept.map((place) => extents[place])));
    const fits = candidates(extents, kept).find((some) => {
      const height = heightOf(around(some.map((place) => extents[place])));
      return most > FAR * height && height > 0;
    });
    if (!fits) return kept;
    kept = fits;
  }
}

/** What may be kept, the most first: without the farthest below, or without those above. */
function candidates(extents, kept) {
  const below = [...kept].sort((a, b) => extents[a][0] - extents[b][0]);
  const above = [...kept].sort((a, b) => extents[b][1] - extents[a][1]);
  const found = [];
  for (let count = 1; count <= kept.length - Math.ceil(extents.length / 2); count++) {
    for (const order of [below, above]) {
      if (!order.slice(0, count).includes(0)) found.push(order.slice(count).sort((a, b) => a - b));
    }
  }
  return found;
}
