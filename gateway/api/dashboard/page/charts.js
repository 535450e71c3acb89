// Time charts on uPlot (vendor/): stacked areas or lines over the last minutes. Knows numbers and colours, no names.

const AXIS_FONT = "11px ui-sans-serif, system-ui, sans-serif";
const drawn = new Map(); // element -> its uPlot and the state that its callbacks read

// Draws or updates the chart in `box`. `series`: arrays of equal length, the lowest of a stack first; null is a gap,
// which only lines have. `kinds`: the colour of each, a CSS custom property of style.css without its dashes.
export function draw(box, { series, kinds, label, tick, empty, max, seconds, stacked }) {
  const nothing = series.every((values) => values.every((value) => !value));
  const count = series[0].length, tops = stacked ? cumulative(series) : series;
  const state = { tick, max: nothing ? 1 : max, nothing, minutes: Math.round((count * seconds) / 60), count };
  // Areas are filled down to zero, so the highest one is drawn first and the lower ones over it.
  const order = series.map((_, i) => (stacked ? series.length - 1 - i : i));
  const shown = (i) => (series[i].some((value) => value) ? tops[i] : tops[i].map(() => null));
  const data = [series[0].map((_, i) => i), ...order.map(shown)];
  let chart = drawn.get(box);
  if (!chart) {
    box.replaceChildren();
    chart = { state, plot: new uPlot(options(box, () => chart?.state ?? state, order.map((i) => kinds[i]), stacked), data, box) };
    drawn.set(box, chart);
  }
  chart.state = state;
  chart.plot.setSize(size(box));
  chart.plot.setData(data);
  chart.plot.root.setAttribute("role", "img");
  chart.plot.root.setAttribute("aria-label", label);
  box.dataset.empty = nothing ? empty : "";
}

const size = (box) => ({ width: Math.max(240, box.clientWidth), height: Math.max(80, box.clientHeight) });

function options(box, state, kinds, stacked) {
  // A canvas needs the colour itself: light-dark() and var() are resolved by the browser for a real property only.
  const colour = (name) => () => {
    box.style.color = `var(--${name})`;
    return getComputedStyle(box).color;
  };
  const axis = { stroke: colour("muted"), font: AXIS_FONT, ticks: { show: false } };
  const path = uPlot.paths.spline(); // monotone: it never overshoots
  return {
    ...size(box),
    padding: [6, 16, 0, 0],
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: false },
      y: { range: (_, low, high) => [0, state().max ?? uPlot.rangeNum(0, high || 1, 0.05, true)[1]] },
    },
    axes: [
      {
        ...axis,
        size: 28,
        gap: 9,
        grid: { show: false },
        splits: () => [0, (state().count - 1) / 2, state().count - 1],
        values: () => [`${state().minutes} min ago`, `${state().minutes / 2} min`, "now"],
      },
      {
        ...axis,
        size: 44,
        space: 40,
        grid: { stroke: colour("line"), width: 1 },
        values: (_, splits) => splits.map((value) => (state().nothing ? "" : state().tick(value))),
      },
    ],
    series: [{}, ...kinds.map((kind) => ({
      paths: path,
      stroke: colour(stacked ? "card" : kind),
      fill: colour(stacked ? kind : `${kind}-wash`),
      width: stacked ? 1 : 2,
      points: { show: false, size: 7, fill: colour(kind), filter: (plot, i) => (stacked ? null : dots(plot.data[i])) },
    }))],
  };
}

function cumulative(series) {
  const below = new Array(series[0].length).fill(0);
  return series.map((values) => values.map((value, i) => (below[i] += value)));
}

// Where a line has a dot: at its end, and at values between two gaps, which have no line.
function dots(values) {
  const last = values.length - 1, given = (i) => values[i] !== null && values[i] !== undefined;
  return values.map((_, i) => i).filter((i) => given(i) && (i === last || (!given(i - 1) && !given(i + 1))));
}
