// Small charts as SVG: a panel with axes, and what is drawn in it.

// Of a panel, in units of its own: its width, and its margins.
const WIDTH = 260;
const LEFT = 48;
const RIGHT = 10;
const TOP = 22;
const BOTTOM = 32;

function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Round numbers in a range: at least three, of the largest step of 1, 2, 5, 10, ... with so many.
function ticksOf(low, high) {
  const power = 10 ** Math.floor(Math.log10(high - low));
  const ticks = [5, 2, 1, 0.5, 0.2, 0.1].map(factor => {
    const step = factor * power;
    const first = Math.ceil(low / step);
    const count = Math.max(0, Math.floor(high / step) - first + 1);
    // Rounded, since 3 * 0.1 has a last digit of its own.
    return Array.from({length: count}, (_, i) => Number(((first + i) * step).toPrecision(12)));
  });
  return ticks.find(of => of.length >= 3);
}

// An axis over some numbers: {at(number) from 0 to 1, ticks}. On a logarithmic one `ticks` are those
// of some numbers, by default all, that are far enough from each other for their labels. `most`: the
// largest that can be measured, just above which the axis ends.
function axisOf(numbers, {log = false, zero = false, marked = numbers, most = Infinity} = {}) {
  const map = log ? Math.log : number => number;
  const mapped = [...numbers.map(map), ...(zero ? [0] : [])];
  let [low, high] = [Math.min(...mapped), Math.max(...mapped)];
  const room = roomOf(low, high, log);
  // An axis from zero begins there; one of zeros alone has room on both sides.
  const zeros = zero && high - low <= study.rounding;
  if (!zero || zeros || low < 0) low -= room;
  if (!zero || zeros || high > 0) high += room;
  // Ends of intervals may be more than a score can be. A mark at `most` needs a little room.
  if (Math.max(...mapped) <= most) high = Math.min(high, most + 0.03 * (most - low));
  const at = number => (map(number) - low) / (high - low);
  if (!log) return {at, ticks: ticksOf(low, high)};
  const ticks = [];
  for (const number of [...new Set(marked)].sort((a, b) => a - b)) {
    if (!ticks.length || at(number) - at(ticks.at(-1)) > 0.2) ticks.push(number);
  }
  return {at, ticks};
}

// What is added to an axis at both ends.
function roomOf(low, high, log) {
  // A factor of 2 at least: sizes that differ by a component are one size. The outer eighths are for
  // the marks that `spread` moves aside.
  if (log) return Math.max(0.17 * (high - low), (Math.log(2) - (high - low)) / 2);
  if (high - low <= study.rounding) return Math.max(0.02 * Math.abs(high), 0.5);
  return 0.07 * (high - low);
}

// In four digits.
const short = number => signed(String(Number(number.toPrecision(4))));

// An empty panel with axes. Returns {svg, x, y}: x and y give the place of a number in it.
// `label`: what it shows, in words; `below`: the title of the axis across; `format`, `upFormat`: of
// the axes' numbers.
function panel({title, label, across, up, below, format = short, upFormat = short, height = 190}) {
  const wide = WIDTH - LEFT - RIGHT;
  const high = height - TOP - BOTTOM;
  const x = number => LEFT + across.at(number) * wide;
  const y = number => TOP + (1 - up.at(number)) * high;
  const svg = drawing("svg", {
    viewBox: `0 0 ${WIDTH} ${height}`,
    role: "img",
    "aria-label": label,
  });
  svg.append(write(title, WIDTH / 2, 12, {class: "title", "text-anchor": "middle"}));
  for (const tick of up.ticks) {
    svg.append(
      line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "grid"),
      write(upFormat(tick), LEFT - 5, y(tick) + 3.5, {"text-anchor": "end"}),
    );
  }
  for (const tick of across.ticks) {
    svg.append(line(x(tick), height - BOTTOM, x(tick), height - BOTTOM + 4, "axis"));
    svg.append(write(format(tick), x(tick), height - BOTTOM + 14, {"text-anchor": "middle"}));
  }
  svg.append(line(LEFT, height - BOTTOM, WIDTH - RIGHT, height - BOTTOM, "axis"));
  svg.append(write(below, LEFT + wide / 2, height - 4, {"text-anchor": "middle"}));
  return {svg, x, y};
}
function write(text, x, y, attributes = {}) {
  return drawing("text", {x, y, ...attributes}, text);
}
function line(x1, y1, x2, y2, kind) {
  return drawing("line", {x1, y1, x2, y2, class: kind});
}

// The places of marks at some numbers across, and a panel that takes such places. Marks nearer than
// they are wide stand side by side around their places, so that none hides another. They keep their
// order; those within 5 % of each other have the order given. None is moved by more than an eighth of
// the panel.
function spread({svg, x, y}, numbers) {
  const equals = [];
  for (const i of [...numbers.keys()].sort((a, b) => numbers[a] - numbers[b])) {
    if (!equals.length || numbers[i] > 1.05 * numbers[equals.at(-1)[0]]) equals.push([]);
    equals.at(-1).push(i);
  }
  const order = equals.flatMap(group => group.sort((a, b) => a - b));
  const there = order.map(i => x(numbers[i]));
  const farthest = (WIDTH - LEFT - RIGHT) / 8;
  let gap = 6;
  let moved = apartBy(gap, there);
  while (moved.some((place, i) => Math.abs(place - there[i]) > farthest)) {
    gap *= 0.9;
    moved = apartBy(gap, there);
  }
  const places = [];
  order.forEach((i, j) => (places[i] = moved[j]));
  return {places, canvas: {svg, x: place => place, y}};
}
// Places moved as little as makes each lie a gap or more beyond the one before: less i * gap they
// must not descend, and those that do take their mean.
function apartBy(gap, places) {
  const groups = []; // [number of places, their mean less the gaps]
  places.forEach((place, i) => {
    let [count, level] = [1, place - i * gap];
    while (groups.length && groups.at(-1)[1] > level) {
      const [others, their] = groups.pop();
      level = (count * level + others * their) / (count + others);
      count += others;
    }
    groups.push([count, level]);
  });
  const levels = groups.flatMap(([count, level]) => Array(count).fill(level));
  return levels.map((level, i) => level + i * gap);
}

const coloured = look => ({style: `--look: ${look.colour}`});
const dashes = look => ({"stroke-dasharray": look.dashed ? "4 3" : "none"});
// The line through points [x, y] as SVG writes it.
function pathOf({x, y}, points) {
  return "M" + points.map(([a, b]) => `${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("L");
}

function curve(canvas, points, look) {
  const path = {d: pathOf(canvas, points), class: "curve", ...coloured(look), ...dashes(look)};
  canvas.svg.append(drawing("path", path));
}
// The points of a line that stays level until it changes: live components.
function stepped(points) {
  const corners = points.slice(1).map(([x], i) => [x, points[i][1]]);
  return points.flatMap((point, i) => (i ? [corners[i - 1], point] : [point]));
}
// The area between points [x, low, high].
function band(canvas, points, look) {
  const there = points.map(([x, , high]) => [x, high]);
  const back = points.map(([x, low]) => [x, low]).reverse();
  const area = pathOf(canvas, [...there, ...back]) + "Z";
  canvas.svg.append(drawing("path", {d: area, class: "band", ...coloured(look)}));
}
// Dots at points [x, y] as one path, each a line of no length with round ends: a thousand circles
// would take the browser as long as all the rest.
function dots({svg, x, y}, points, look) {
  const path = points.map(([a, b]) => `M${x(a).toFixed(1)} ${y(b).toFixed(1)}h0`).join("");
  svg.append(drawing("path", {d: path, class: "dots", ...coloured(look)}));
}
// A bar between the places [x, y] of two numbers, upright or level, with a line across each end.
function bar(canvas, from, to, look) {
  const ends = [from, to].map(([x, y]) => [canvas.x(x), canvas.y(y)]);
  const upright = from[0] === to[0];
  const segment = (a, b) => "M" + [a, b].map(at => at.map(n => n.toFixed(1)).join(" ")).join("L");
  const across = ends.map(([x, y]) => {
    const [dx, dy] = upright ? [2.5, 0] : [0, 2.5];
    return segment([x - dx, y - dy], [x + dx, y + dy]);
  });
  const path = segment(...ends) + across.join("");
  canvas.svg.append(drawing("path", {d: path, class: "interval", ...coloured(look)}));
}
function mark({svg, x, y}, a, b, look, text) {
  svg.append(titled(symbol(look, x(a), y(b)), text));
}
function titled(shape, text) {
  if (text) shape.append(drawing("title", {}, text));
  return shape;
}

// Markers by Matplotlib's names, so that a method has one marker here and in print: the number of
// corners, and how far the first is turned.
const CORNERS = {
  s: [4, 45],
  D: [4, 0],
  "^": [3, -90],
  v: [3, 90],
  "<": [3, 180],
  ">": [3, 0],
};
// Plus, cross and thin diamond: the number of points, the turn, and how deep the dents between are.
const STARS = {P: [4, 0, 0.35], X: [4, 45, 0.35], d: [2, -90, 0.5]};
function symbol(look, x, y, radius = 4) {
  const about = {class: look.hollow ? "mark hollow" : "mark", ...coloured(look)};
  if (look.marker in CORNERS) {
    const [count, turn] = CORNERS[look.marker];
    return drawing("polygon", {points: corners(x, y, count, turn, () => radius), ...about});
  }
  if (look.marker in STARS) {
    const [count, turn, dent] = STARS[look.marker];
    const reach = i => radius * (i % 2 ? dent : 1.15);
    return drawing("polygon", {points: corners(x, y, 2 * count, turn, reach), ...about});
  }
  return drawing("circle", {cx: x, cy: y, r: 0.85 * radius, ...about});
}
// Corners around a point; `reach`: how far the i-th is from it. `turn`: degrees, clockwise.
function corners(x, y, count, turn, reach) {
  const places = Array.from({length: count}, (_, i) => {
    const angle = ((turn + (i * 360) / count) * Math.PI) / 180;
    return [x + reach(i) * Math.cos(angle), y + reach(i) * Math.sin(angle)];
  });
  return places.map(place => place.map(number => number.toFixed(1)).join()).join(" ");
}

// What the looks of a figure mean: [[text, look], ...].
function legend(entries) {
  const items = entries.map(([text, look]) => {
    const sample = drawing("svg", {viewBox: "0 0 22 12", "aria-hidden": "true"});
    const stroke = {d: "M0 6H22", class: "curve", ...coloured(look), ...dashes(look)};
    sample.append(drawing("path", stroke));
    if (look.marker) sample.append(symbol(look, 11, 6));
    return element("li", {}, sample, text);
  });
  return element("ul", {class: "legend"}, ...items);
}

// A colour between dark blue and yellow for a share of 0 to 1, which the colour-blind read too
// (cividis).
const CIVIDIS = [
  [0, 34, 78],
  [65, 77, 107],
  [124, 123, 120],
  [188, 175, 111],
  [254, 232, 56],
];
function shade(share) {
  const place = Math.min(0.9999, Math.max(0, share)) * (CIVIDIS.length - 1);
  const i = Math.floor(place);
  const parts = CIVIDIS[i].map((from, j) =>
    Math.round(from + (place - i) * (CIVIDIS[i + 1][j] - from)),
  );
  return `rgb(${parts.join()})`;
}
