// Small charts in SVG: stacked areas and one line. They are given numbers and make elements; they know no names.

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 40, BOTTOM = 20, TOP = 6, RIGHT = 6;

export function shape(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// The next round number at or above: 1, 2, 2.5 or 5 times a power of ten.
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

// `series`: arrays of equal length, bottom first; null is a gap, which only lines have.
export function draw(box, { series, kinds, label, tick, empty, most, seconds, stacked }) {
  const width = Math.max(240, box.clientWidth), height = Math.max(80, box.clientHeight);
  const count = series[0].length;
  const totals = series[0].map((_, i) => stacked
    ? series.reduce((sum, one) => sum + one[i], 0)
    : Math.max(0, ...series.map((one) => one[i] ?? 0)));
  const nothing = series.every((one) => one.every((value) => !value));
  const top = most ?? roundUp(Math.max(...totals));
  const x = (i) => LEFT + (width - LEFT - RIGHT) * (count > 1 ? i / (count - 1) : 1);
  const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - Math.min(1, value / top));

  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const share of nothing ? [0] : [0, 0.5, 1]) {
    const at = y(top * share);
    svg.append(shape("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: at, y2: at }));
    if (!nothing) {
      svg.append(shape("text", { class: "tick", x: LEFT - 8, y: at + 4, "text-anchor": "end" }, tick(top * share)));
    }
  }
  const minutes = Math.round((count * seconds) / 60);
  for (const [share, text] of [[0, `${minutes} min ago`], [0.5, `${minutes / 2} min`], [1, "now"]]) {
    const anchor = share === 0 ? "start" : share === 1 ? "end" : "middle";
    svg.append(shape("text", { class: "tick", x: x((count - 1) * share), y: height - 2, "text-anchor": anchor }, text));
  }
  if (stacked) {
    let below = new Array(count).fill(0);
    series.forEach((one, k) => {
      const above = below.map((sum, i) => sum + one[i]);
      if (one.some((value) => value)) {
        const edge = curve(above.map((sum, i) => [x(i), y(sum)]));
        const back = curve(below.map((sum, i) => [x(i), y(sum)]).reverse());
        svg.append(shape("path", { class: `fill-${kinds[k]}`, d: `M${edge}L${back}Z` }));
      }
      below = above;
    });
  } else {
    series.forEach((one, k) => {
      for (const run of runs(one)) {
        const line = curve(run.map(([i, value]) => [x(i), y(value)]));
        const [first, last] = [run[0], run[run.length - 1]];
        if (run.length > 1) {
          svg.append(shape("path", { class: `wash-${kinds[k]}`, d: `M${x(first[0])} ${y(0)}L${line}L${x(last[0])} ${y(0)}Z` }));
          svg.append(shape("path", { class: `stroke line-${kinds[k]}`, d: `M${line}` }));
        }
        if (run.length === 1 || last[0] === count - 1) {
          svg.append(shape("circle", { class: `dot-${kinds[k]}`, cx: x(last[0]), cy: y(last[1]), r: 3.5 }));
        }
      }
    });
  }
  box.replaceChildren(svg);
  if (nothing) {
    const note = document.createElement("p");
    note.className = "none";
    note.textContent = empty;
    box.append(note);
  }
}

// Through all points, level at each of them, so that it never overshoots.
function curve(points) {
  return points.map(([x, y], i) => {
    if (!i) return `${x} ${y}`;
    const [from, level] = points[i - 1], middle = (from + x) / 2;
    return `C${middle} ${level} ${middle} ${y} ${x} ${y}`;
  }).join("");
}

// Stretches without a gap, as pairs of place and value.
function runs(values) {
  const all = [[]];
  values.forEach((value, i) => {
    if (value === null) all.push([]);
    else all[all.length - 1].push([i, value]);
  });
  return all.filter((run) => run.length);
}
