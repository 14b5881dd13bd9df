// The figures of some runs of one table: each returns an element, or null with nothing to draw.

// A method's colour is a variable of the style sheet, which a dark page sets to another value.
const LOOKS = {};
function defineLooks() {
  const names = Object.keys(study.looks);
  const colours = kind => names.map((name, i) => `--method-${i}: ${study.looks[name][kind]};`).join(" ");
  document.head.append(element("style", {}, `:root { ${colours("light")} }
    @media screen and (prefers-color-scheme: dark) { :root { ${colours("dark")} } }`));
  names.forEach((name, i) => { LOOKS[name] = {colour: `var(--method-${i})`, marker: study.looks[name].marker}; });
}

// The rows of tables, each a method and a budget, by budget with the baseline first in each.
function rowsOf(some) {
  const rows = [...grouped(some, run => `${run.method} ${run.budget}`).values()].map(runs => {
    const {method, methodTitle, budgetTitle, budgetOrder} = runs[0];
    const none = budgetTitle === "–";
    return {runs, method, title: methodTitle, budgetTitle, budgetOrder, none, name: none ? methodTitle : `${methodTitle} ${budgetTitle}`};
  });
  const key = row => [...row.budgetOrder, row.method === study.baseline ? 0 : 1];
  return rows.sort((a, b) => order3(key(a), key(b)) || order(a.method, b.method));
}
function order3(a, b) { return a[0] - b[0] || a[1] - b[1] || a[2] - b[2]; }
// The last row of each method, which has its largest budget.
const largest = rows => [...new Map(rows.map(row => [row.method, row])).values()];
const methodsOf = rows => [...new Map(rows.map(row => [row.method, row.title]))].map(([method, title]) => [title, LOOKS[method]]);

// [[title, of], ...] for each task, and for their average: `of` gives the scores of a row as a list
// of Maps by seed, one a task.
function scoresOf(group, some) {
  const tasks = [...grouped(some, run => run.task).values()].map(([run]) => run);
  const bySeed = (row, task) => new Map(row.runs.filter(run => run.task === task && run.score !== null).map(run => [run.seed, run.score]));
  const found = tasks.map(run => [run.metric, row => [bySeed(row, run.task)]]);
  const averaged = tasks.map(run => run.task).filter(task => group.averaged.includes(task));
  if (averaged.length > 1) found.push([`average of ${averaged.length} tasks`, row => averaged.map(task => bySeed(row, task))]);
  return found;
}
// Scores by seed, averaged over tasks: only seeds that all of them have.
function averageOf(maps) {
  const seeds = [...maps[0].keys()].filter(seed => maps.every(map => map.has(seed)));
  return seeds.map(seed => mean(maps.map(map => map.get(seed))));
}

function figure(title, caption, legends, panels) {
  if (!panels.length) return null;
  const text = element("figcaption", {}, element("b", {}, title), ` ${caption}`);
  return element("figure", {}, text, legend(legends), element("div", {class: "panels"}, ...panels));
}
// A panel's numbers in words, for whoever does not see it.
const inWords = (title, points) => `${title}: ${points.map(p => `${p.row.name} ${fixed(p.mean, 1)}`).join(", ")}`;

// Points of rows: {row, seeds, mean, x}, without rows that lack a task: a mean over other tasks than
// the next row's would look like a difference of methods. The mean is that of the tables, over tasks
// of means over seeds; `seeds` are the scores to be shown as dots.
function pointsOf(rows, of, x) {
  const found = rows.map(row => ({row, maps: of(row)})).filter(({maps}) => maps.every(map => map.size));
  return found.map(({row, maps}) => ({row, seeds: averageOf(maps), mean: mean(maps.map(map => mean([...map.values()]))), x: x(row)}));
}
const meanOf = key => row => mean(row.runs.map(run => run[key]));
const markText = point => `${point.row.name}: ${fixed(point.mean, 2)}`;

function scoreBySize(group, some) {
  const rows = rowsOf(some);
  const panels = scoresOf(group, some).map(([title, of]) => {
    const points = pointsOf(rows, of, meanOf("params"));
    // An adapter of no component has no place on a logarithmic axis.
    const adapted = points.filter(point => !point.row.none && point.x > 0);
    if (!adapted.length) return null;
    const scores = points.flatMap(point => [...point.seeds, point.mean]);
    const sizes = adapted.map(point => point.x);
    // Other methods end a component or two beside the baseline's sizes.
    const base = adapted.filter(point => point.row.method === study.baseline).map(point => point.x);
    const canvas = panel({title, label: inWords(title, points), below: "stored parameters", format: size,
      across: axisOf(sizes, {log: true, marked: base.length ? base : sizes}), up: axisOf(scores)});
    for (const point of points.filter(point => point.row.none)) drawAcross(canvas, point);
    const byMethod = [...grouped(adapted, point => point.row.method).values()];
    byMethod.forEach((of, i) => {
      of.sort((a, b) => a.x - b.x);
      const aside = shifted(canvas, asideOf(i, byMethod.length)), look = LOOKS[of[0].row.method];
      curve(aside, of.map(point => [point.x, point.mean]), look);
      for (const point of of) {
        dots(aside, point.seeds.map(score => [point.x, score]), look);
        mark(aside, point.x, point.mean, look, markText(point));
      }
    });
    return canvas.svg;
  });
  return figure("Score against parameters.", "Dots are runs; marks are means over seeds; a dashed line is a method without a budget.",
    [...methodsOf(rows.filter(row => !row.none)), ...methodsOf(rows.filter(row => row.none)).map(([title, look]) => [title, acrossLook(look)])],
    panels.filter(Boolean));
}
const acrossLook = look => ({...look, marker: null, dashed: true});
function drawAcross({svg, y}, point) {
  const made = drawing("line", {x1: LEFT, x2: WIDTH - RIGHT, y1: y(point.mean), y2: y(point.mean), class: "curve",
    style: `--look: ${LOOKS[point.row.method].colour}`, "stroke-dasharray": "4 3"});
  svg.append(titled(made, markText(point)));
}

function differences(group, some) {
  const scores = scoresOf(group, some);
  const panels = [...grouped(rowsOf(some), row => row.budgetTitle).values()].map(rows => {
    const base = rows.find(row => row.method === study.baseline);
    const others = rows.filter(row => row !== base);
    return base && others.length ? differencePanel(base, others, scores) : null;
  }).filter(Boolean);
  const compared = rowsOf(some).filter(row => !row.none && row.method !== study.baseline);
  const title = runs.find(run => run.method === study.baseline)?.methodTitle;
  return figure(`Differences from ${title} at equal budget.`, "In points, paired by seed: dots are pairs, marks their means. "
    + "Whether a difference is shown by the seeds, the tables of differences say.", methodsOf(compared), panels);
}
function differencePanel(base, others, scores) {
  const lines = scores.map(([title, of]) => {
    const known = of(base);
    const paired = row => of(row).map((map, i) => new Map([...map].filter(([seed]) => known[i].has(seed))
      .map(([seed, score]) => [seed, score - known[i].get(seed)])));
    return [title, pointsOf(others, paired, () => 0)];
  }).filter(([, points]) => points.length);
  if (!lines.length) return null;
  const across = axisOf(lines.flatMap(([, points]) => points.flatMap(point => [...point.seeds, point.mean])), {zero: true});
  // Downwards, a line a score, the methods of each beside each other in three quarters of it.
  const up = {at: place => 1 - (place + 0.5) / lines.length, ticks: lines.map((_, i) => i)};
  const label = lines.map(([title, points]) => inWords(title, points)).join("; ");
  const named = place => lines[place][0].replace(/^average of .*/, "average").split(" ")[0];
  const canvas = panel({title: `budget ${base.budgetTitle}`, label, across, up, upFormat: named, below: `points more than ${base.title}`,
    height: TOP + BOTTOM + Math.max(70, lines.length * Math.max(18, 7 * others.length))});
  canvas.svg.append(line(canvas.x(0), TOP, canvas.x(0), canvas.y(lines.length - 0.5), "axis"));
  lines.forEach(([, points], place) => points.forEach(point => {
    const i = others.indexOf(point.row), at = place + (0.75 * (i - (others.length - 1) / 2)) / others.length;
    const look = LOOKS[point.row.method];
    dots(canvas, point.seeds.map(difference => [difference, at]), look);
    mark(canvas, point.mean, at, look, markText(point));
  }));
  return canvas.svg;
}

const COSTS = [["stored parameters", "params", size], ["seconds of training", "seconds", number => size(Math.round(number))]];
function scoreByCost(group, some) {
  const [title, of] = scoresOf(group, some).at(-1), rows = rowsOf(some);
  const panels = COSTS.map(([below, key, format]) => {
    const points = pointsOf(rows, of, meanOf(key)).filter(point => point.x > 0).sort((a, b) => a.x - b.x);
    if (points.length < 2) return null;
    const canvas = panel({title, label: inWords(`${title} against ${below}`, points), below, format,
      across: axisOf(points.map(point => point.x), {log: true}), up: axisOf(points.map(point => point.mean))});
    // Those that score more than every cheaper one.
    const front = points.filter((point, i) => points.slice(0, i).every(cheaper => cheaper.mean < point.mean));
    const path = front.map((point, i) => `${i ? "L" : "M"}${canvas.x(point.x)} ${canvas.y(point.mean)}`).join("");
    canvas.svg.append(drawing("path", {d: path, class: "front"}));
    for (const point of points) mark(canvas, point.x, point.mean, LOOKS[point.row.method], `${markText(point)} at ${format(point.x)}`);
    return canvas.svg;
  });
  return figure("Score against cost.", "Means over seeds, a mark for each method and budget; the line joins those that no cheaper one beats.",
    methodsOf(rows), panels.filter(Boolean));
}

// A curve's mean, lowest and highest value at each step, over runs.
function summary(some, name) {
  const values = grouped(some.flatMap(run => curveOf(run, name)), ([step]) => step);
  return [...values].sort(([a], [b]) => a - b).map(([step, pairs]) => {
    const of = pairs.map(([, value]) => value);
    return {step, mean: mean(of), low: Math.min(...of), high: Math.max(...of)};
  });
}
function curvesByTask(some, name, title, caption) {
  const rows = largest(rowsOf(some.filter(run => run.curves[name])));
  const shown = rows.flatMap(row => row.runs);
  const panels = [...grouped(shown, run => run.taskTitle)].map(([task, ofTask]) => {
    const lines = rows.map(row => ({row, curve: summary(row.runs.filter(run => ofTask.includes(run)), name)})).filter(l => l.curve.length);
    const all = lines.flatMap(({curve}) => curve);
    const canvas = panel({title: task, label: `${task}, last values: ${lines.map(l => `${l.row.name} ${short(l.curve.at(-1).mean)}`).join(", ")}`, below: "step",
      across: axisOf(all.map(point => point.step), {zero: true}), up: axisOf(all.flatMap(point => [point.low, point.high]))});
    for (const {row, curve: of} of lines) {
      const shaped = name === "live" ? stepped : points => points;
      band(canvas, of.map(point => [point.step, point.low, point.high]), LOOKS[row.method]);
      curve(canvas, shaped(of.map(point => [point.step, point.mean])), LOOKS[row.method]);
    }
    return canvas.svg;
  });
  return figure(title, caption, rows.map(row => [row.name, {...LOOKS[row.method], marker: null}]), panels);
}

function finalRanks(some) {
  const rows = largest(rowsOf(some.filter(run => ranksOf(run).some(matrix => matrix.start !== matrix.end))));
  const panels = [...grouped(rows.flatMap(row => row.runs), run => run.taskTitle)].flatMap(([task, ofTask]) =>
    rows.map(row => [row, row.runs.filter(run => ofTask.includes(run))]).filter(([, of]) => of.length)
      .map(([row, of]) => heatMap(`${task}, ${row.name}`, of)));
  return figure("Ranks at the end.", "Layer by kind of matrix, means over seeds, each method at its largest budget; colour: share of the start's, "
    + "from none (blue) to all (yellow).", [], panels);
}
// Mean ranks of runs at the end; numbers where there is room for them.
function heatMap(title, some) {
  const cells = [...grouped(some.flatMap(ranksOf), ({layer, kind}) => `${layer} ${kind}`).values()].map(of => {
    const [start, end] = [mean(of.map(one => one.start)), mean(of.map(one => one.end))];
    return {layer: of[0].layer, kind: of[0].kind, end, share: start ? end / start : 0};
  });
  const layers = [...new Set(cells.map(cell => cell.layer))].sort((a, b) => a - b);
  const kinds = study.kinds.filter(kind => cells.some(cell => cell.kind === kind));
  const wide = (WIDTH - LEFT - RIGHT) / kinds.length, high = 15, bottom = TOP + layers.length * high;
  const digits = cells.every(cell => Number.isInteger(cell.end)) ? 0 : 1;
  const live = cells.reduce((sum, cell) => sum + cell.end, 0);
  const svg = drawing("svg", {viewBox: `0 0 ${WIDTH} ${bottom + 20}`, role: "img", "aria-label": `${title}: ${short(live)} components at the end`});
  svg.append(write(title, WIDTH / 2, 12, {class: "title", "text-anchor": "middle"}));
  for (const cell of cells) {
    const x = LEFT + kinds.indexOf(cell.kind) * wide, y = bottom - (layers.indexOf(cell.layer) + 1) * high;
    const box = drawing("rect", {x, y, width: wide - 0.8, height: high - 0.8, fill: shade(cell.share)});
    svg.append(titled(box, `layer ${cell.layer} ${cell.kind}: ${fixed(cell.end, 1)}`));
    const number = write(fixed(cell.end, digits), x + wide / 2, y + 10.5, {"text-anchor": "middle", "aria-hidden": "true"});
    number.style.fill = cell.share > 0.47 ? "#000" : "#fff";
    svg.append(number);
  }
  layers.forEach((layer, i) => svg.append(write(layer, LEFT - 5, bottom - i * high - 4, {"text-anchor": "end"})));
  kinds.forEach((kind, i) => svg.append(write(kind, LEFT + (i + 0.5) * wide, bottom + 12, {"text-anchor": "middle"})));
  svg.append(write("layer", LEFT - 5, bottom + 12, {"text-anchor": "end"}));
  return svg;
}

// All figures of the runs that are left, under a heading for each table of several.
function drawFigures(into, left) {
  const parts = [];
  for (const [number, some] of grouped(left, run => run.group)) {
    const group = study.groups[number];
    if (study.groups.length > 1) parts.push(element("h3", {}, group.title));
    parts.push(
      scoreBySize(group, some), differences(group, some), scoreByCost(group, some),
      curvesByTask(some, "score", "Learning curves.", "Development score, mean over seeds and from lowest to highest, each method at its largest budget."),
      curvesByTask(some, "live", "Live components.", "All components that are left, each method at its largest budget."),
      finalRanks(some),
    );
  }
  into.replaceChildren(...parts.filter(Boolean));
}
