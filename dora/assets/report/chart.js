// Small charts as SVG: a panel with axes, and what is drawn in it.

const WIDTH = 260, LEFT = 48, RIGHT = 10, TOP = 22, BOTTOM = 32;

function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Round numbers in a range: at least three, with the largest step of 1, 2, 5, 10, ... that has so many.
function ticksOf(low, high) {
  const power = 10 ** Math.floor(Math.log10(high - low));
  const ticks = [5, 2, 1, 0.5, 0.2, 0.1].map(factor => {
    const step = factor * power, first = Math.ceil(low / step), last = Math.floor(high / step);
    // Not by adding: 0.1 + 0.2 has a last digit of its own.
    return Array.from({length: Math.max(0, last - first + 1)}, (_, i) => Number(((first + i) * step).toPrecision(12)));
  });
  return ticks.find(of => of.length >= 3);
}

// An axis over some numbers: {at(number) from 0 to 1, ticks}. On a logarithmic one `ticks` are those
// of some numbers, by default all, that are far enough from each other for their labels.
function axisOf(numbers, {log = false, zero = false, marked = numbers} = {}) {
  const map = log ? Math.log : number => number;
  let low = Math.min(...numbers.map(map)), high = Math.max(...numbers.map(map));
  if (zero) { low = Math.min(low, 0); high = Math.max(high, 0); }
  // A logarithmic axis spans a factor of 2 at least: sizes that differ by a component are one size.
  const least = log ? (Math.log(2) - high + low) / 2 : high > low ? 0 : Math.max(Math.abs(high) * 0.02, 0.5);
  const room = Math.max((high - low) * 0.07, least);
  [low, high] = [low - (zero && low === 0 ? 0 : room), high + (zero && high === 0 ? 0 : room)];
  const at = number => (map(number) - low) / (high - low);
  if (!log) return {at, ticks: ticksOf(low, high)};
  const ticks = [];
  for (const number of [...new Set(marked)].sort((a, b) => a - b)) {
    if (!ticks.length || at(number) - at(ticks.at(-1)) > 0.2) ticks.push(number);
  }
  return {at, ticks};
}

const short = number => signed(String(Number(number.toPrecision(4))));

// An empty panel with axes. Returns {svg, x, y}: x and y give the place of a number in it.
function panel({title, label, across, up, below = "", format = short, upFormat = short, height = 190}) {
  const wide = WIDTH - LEFT - RIGHT, high = height - TOP - BOTTOM;
  const x = number => LEFT + across.at(number) * wide;
  const y = number => TOP + (1 - up.at(number)) * high;
  const svg = drawing("svg", {viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label || title});
  svg.append(write(title, WIDTH / 2, 12, {class: "title", "text-anchor": "middle"}));
  for (const tick of up.ticks) {
    svg.append(line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "grid"), write(upFormat(tick), LEFT - 5, y(tick) + 3.5, {"text-anchor": "end"}));
  }
  for (const tick of across.ticks) {
    svg.append(line(x(tick), height - BOTTOM, x(tick), height - BOTTOM + 4, "axis"));
    svg.append(write(format(tick), x(tick), height - BOTTOM + 14, {"text-anchor": "middle"}));
  }
  svg.append(line(LEFT, height - BOTTOM, WIDTH - RIGHT, height - BOTTOM, "axis"));
  svg.append(write(below, LEFT + wide / 2, height - 4, {"text-anchor": "middle"}));
  return {svg, x, y};
}
function write(text, x, y, attributes = {}) { return drawing("text", {x, y, ...attributes}, text); }
function line(x1, y1, x2, y2, kind) { return drawing("line", {x1, y1, x2, y2, class: kind}); }

// The panel for what is to stand a little aside, so that marks at one place don't cover each other.
const shifted = ({svg, x, y}, pixels) => ({svg, x: number => x(number) + pixels, y});
// How far the i-th of some marks stands aside.
const asideOf = (i, count) => (i - (count - 1) / 2) * Math.min(6, 44 / count);

// A line through points [x, y], in the colour of a look.
function curve({svg, x, y}, points, look, dashed = false) {
  const path = points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
  svg.append(drawing("path", {d: path, class: "curve", style: `--look: ${look.colour}`, "stroke-dasharray": dashed ? "4 3" : "none"}));
}
// The points of a line that stays level until it changes: live components.
const stepped = points => points.flatMap(([x, y], i) => (i ? [[x, points[i - 1][1]], [x, y]] : [[x, y]]));
// The area between points [x, low, high].
function band({svg, x, y}, points, look) {
  const there = points.map(([a, , high]) => `${x(a).toFixed(1)} ${y(high).toFixed(1)}`);
  const back = points.slice().reverse().map(([a, low]) => `${x(a).toFixed(1)} ${y(low).toFixed(1)}`);
  svg.append(drawing("path", {d: `M${[...there, ...back].join("L")}Z`, class: "band", style: `--look: ${look.colour}`}));
}
// Dots at points [x, y] as one path, each a line of no length with round ends: a thousand circles
// would take the browser as long as all the rest.
function dots({svg, x, y}, points, look) {
  const path = points.map(([a, b]) => `M${x(a).toFixed(1)} ${y(b).toFixed(1)}h0`).join("");
  svg.append(drawing("path", {d: path, class: "dots", style: `--look: ${look.colour}`}));
}
function mark({svg, x, y}, a, b, look, text) {
  svg.append(titled(symbol(look, x(a), y(b)), text));
}
function titled(shape, text) {
  if (text) shape.append(drawing("title", {}, text));
  return shape;
}

// Markers by Matplotlib's names, so that a method has one marker here and in print.
const CORNERS = {"s": [4, 45], "D": [4, 0], "d": [4, 0], "^": [3, -90], "v": [3, 90], "<": [3, 180], ">": [3, 0], "p": [5, -90],
  "h": [6, -90], "H": [6, 0], "8": [8, 22.5]};
function symbol(look, cx, cy, r = 4) {
  const corner = (degrees, radius) => {
    const angle = (degrees * Math.PI) / 180;
    return `${(cx + radius * Math.cos(angle)).toFixed(1)},${(cy + radius * Math.sin(angle)).toFixed(1)}`;
  };
  const around = (count, turn, radius = () => r) =>
    Array.from({length: count}, (_, i) => corner(turn + (i * 360) / count, radius(i))).join(" ");
  const style = {class: "mark", style: `--look: ${look.colour}`};
  if (look.marker in CORNERS) return drawing("polygon", {points: around(...CORNERS[look.marker]), ...style});
  if (look.marker === "*") return drawing("polygon", {points: around(10, -90, i => (i % 2 ? r * 0.45 : r * 1.1)), ...style});
  // Plus and cross: stars of four arms, upright and turned.
  const turns = {"P": 0, "$+$": 0, "X": 45};
  if (look.marker in turns) return drawing("polygon", {points: around(8, turns[look.marker], i => (i % 2 ? r * 0.4 : r * 1.15)), ...style});
  return drawing("circle", {cx, cy, r: r * 0.85, ...style});
}

// What the looks of a figure mean: [[text, look], ...].
function legend(entries) {
  const items = entries.map(([text, look]) => {
    const sample = drawing("svg", {viewBox: "0 0 22 12", "aria-hidden": "true"});
    sample.append(drawing("path", {d: "M0 6H22", class: "curve", style: `--look: ${look.colour}`, "stroke-dasharray": look.dashed ? "4 3" : "none"}));
    if (look.marker) sample.append(symbol(look, 11, 6));
    return element("li", {}, sample, text);
  });
  return element("ul", {class: "legend"}, ...items);
}

// A colour between dark blue and yellow for a share of 0 to 1, which the colour-blind read too
// (cividis).
const CIVIDIS = [[0, 34, 78], [65, 77, 107], [124, 123, 120], [188, 175, 111], [254, 232, 56]];
function shade(share) {
  const place = Math.min(0.9999, Math.max(0, share)) * (CIVIDIS.length - 1), i = Math.floor(place);
  const parts = CIVIDIS[i].map((from, j) => Math.round(from + (place - i) * (CIVIDIS[i + 1][j] - from)));
  return `rgb(${parts.join()})`;
}
