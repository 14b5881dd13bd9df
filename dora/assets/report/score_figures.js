// Figures of scores, of some runs of one table: each an element, or null with nothing to draw.

// A method's colour is a variable of the style sheet, which a dark page sets to another value.
const LOOKS = {};
function defineLooks() {
  const names = Object.keys(study.looks);
  const colours = kind =>
    names.map((name, i) => `--method-${i}: ${study.looks[name][kind]};`).join(" ");
  const dark = `@media screen and (prefers-color-scheme: dark) { :root { ${colours("dark")} } }`;
  document.head.append(element("style", {}, `:root { ${colours("light")} } ${dark}`));
  names.forEach((name, i) => {
    const {marker, hollow} = study.looks[name];
    LOOKS[name] = {colour: `var(--method-${i})`, marker, hollow};
  });
}

// The rows of tables, each a method and a budget, by budget with the baseline first in each.
function rowsOf(some) {
  const rows = [...grouped(some, run => `${run.method} ${run.budget}`).values()].map(runs => {
    const {method, methodTitle, budget, budgetTitle, budgetOrder} = runs[0];
    const none = budgetTitle === "–";
    return {
      runs,
      method,
      title: methodTitle,
      budget,
      budgetTitle,
      budgetOrder,
      none,
      name: none ? methodTitle : `${methodTitle} ${budgetTitle}`,
    };
  });
  const isBase = row => (row.method === study.baseline ? 1 : 0);
  return rows.sort(
    (a, b) =>
      orderOfBudgets(a.budgetOrder, b.budgetOrder) ||
      isBase(b) - isBase(a) ||
      order(a.method, b.method),
  );
}
// The last row of each method, which has its largest budget.
const largest = rows => [...new Map(rows.map(row => [row.method, row])).values()];
// [[title, look], ...] of the rows' methods, for a legend.
const methodsOf = rows => largest(rows).map(row => [row.title, LOOKS[row.method]]);

// [[title, of, tasks], ...] for each task, and for their average: `of` gives the scores of a row as a
// list of Maps by seed, one for each of `tasks`.
function scoresOf(group, some) {
  const tasks = [...grouped(some, run => run.task).values()].map(([run]) => run);
  const found = tasks.map(run => [run.metric, row => [bySeed(row, run.task)], [run.task]]);
  const averaged = tasks.map(run => run.task).filter(task => group.averaged.includes(task));
  if (averaged.length < 2) return found;
  const all = row => averaged.map(task => bySeed(row, task));
  return [...found, [`average of ${averaged.length} tasks`, all, averaged]];
}
function bySeed(row, task) {
  const known = row.runs.filter(run => run.task === task && run.score !== null);
  return new Map(known.map(run => [run.seed, run.score]));
}
// Scores by seed, averaged over tasks: only seeds that all of them have.
function averageOf(maps) {
  const seeds = [...maps[0].keys()].filter(seed => maps.every(map => map.has(seed)));
  return seeds.map(seed => mean(maps.map(map => map.get(seed))));
}

function figure(title, caption, legends, panels) {
  if (!panels.length) return null;
  const text = element("figcaption", {}, element("b", {}, title), ` ${caption}`);
  // A method may have no point in any panel, as one that lacks a task of the average.
  const isDrawn = look => panels.some(svg => svg.querySelector(`[style="${coloured(look).style}"]`));
  const drawn = legends.filter(([, look]) => isDrawn(look));
  return element("figure", {}, text, legend(drawn), element("div", {class: "panels"}, ...panels));
}
// A panel's numbers in words, for whoever does not see it.
const inWords = (title, points) =>
  `${title}: ${points.map(p => `${p.row.name} ${withInterval(p, 1)}`).join(", ")}`;

// Points of rows: {row, seeds, mean, low, high, x}, without rows that lack a task: a mean over other
// tasks than the next row's would look like a difference of methods. Mean and interval are those of
// the tables, over tasks of means over seeds; `seeds` are the scores to be shown as dots.
function pointsOf(rows, of, x) {
  const found = rows
    .map(row => ({row, maps: of(row)}))
    .filter(({maps}) => maps.every(map => map.size));
  return found.map(({row, maps}) => ({
    row,
    seeds: averageOf(maps),
    ...estimateOf(maps.map(map => [...map.values()])),
    x: x(row),
  }));
}
// Averaged as scores are: a task with more seeds than another weighs no more.
const costOf = (key, tasks) => row =>
  mean(tasks.map(task => mean(row.runs.filter(run => run.task === task).map(run => run[key]))));
const withInterval = (point, digits) =>
  fixed(point.mean, digits) +
  (point.low === null ? "" : ` [${fixed(point.low, digits)}, ${fixed(point.high, digits)}]`);
const markText = point => `${point.row.name}: ${withInterval(point, 2)}`;
// All numbers that a panel needs room for.
const extentOf = points =>
  points.flatMap(p => [...p.seeds, p.mean, p.low, p.high]).filter(number => number !== null);

function scoreBySize(group, some) {
  const rows = rowsOf(some);
  const panels = scoresOf(group, some).map(score => sizePanel(rows, ...score));
  const [across, adapted] = [true, false].map(none =>
    methodsOf(rows.filter(row => row.none === none)),
  );
  return figure(
    "Score against parameters.",
    "Dots are runs, marks means over seeds with their 95 % interval; a dashed line in a band is " +
      "a method without a budget.",
    [...adapted, ...across.map(([title, look]) => [title, acrossLook(look)])],
    panels.filter(Boolean),
  );
}
function sizePanel(rows, title, of, tasks) {
  const points = pointsOf(rows, of, costOf("params", tasks));
  // An adapter of no component has no place on a logarithmic axis.
  const adapted = points.filter(point => !point.row.none && point.x > 0);
  if (!adapted.length) return null;
  const sizes = adapted.map(point => point.x);
  // Other methods end a component or two beside the baseline's sizes.
  const base = adapted.filter(point => point.row.method === study.baseline).map(point => point.x);
  const canvas = panel({
    title,
    label: inWords(title, points),
    below: "adapter parameters",
    format: size,
    across: axisOf(sizes, {log: true, marked: base.length ? base : sizes}),
    up: axisOf(extentOf(points), {most: MOST.score}),
  });
  for (const point of points.filter(point => point.row.none)) drawAcross(canvas, point);
  const aside = spread(canvas, sizes);
  const placed = adapted.map((point, i) => ({...point, x: aside.places[i]}));
  for (const of of grouped(placed, point => point.row.method).values()) {
    drawMethod(aside.canvas, of);
  }
  return canvas.svg;
}
// The points of one method, joined in the order of their sizes.
function drawMethod(canvas, points) {
  const look = LOOKS[points[0].row.method];
  const means = points.map(point => [point.x, point.mean]).sort(([a], [b]) => a - b);
  const scores = points.flatMap(point => point.seeds.map(score => [point.x, score]));
  curve(canvas, means, look);
  dots(canvas, scores, look);
  for (const point of points) {
    interval(canvas, point, [point.x, point.low], [point.x, point.high], look);
    mark(canvas, point.x, point.mean, look, markText(point));
  }
}
// The interval of a point as a bar between two places; nothing where it has none.
function interval(canvas, point, from, to, look) {
  if (point.low !== null) bar(canvas, from, to, look);
}
const acrossLook = look => ({...look, marker: null, dashed: true});
function drawAcross({svg, y}, point) {
  const look = acrossLook(LOOKS[point.row.method]);
  if (point.low !== null) {
    const high = y(point.low) - y(point.high);
    const place = {x: LEFT, y: y(point.high), width: WIDTH - LEFT - RIGHT, height: high};
    svg.append(drawing("rect", {...place, class: "band", ...coloured(look)}));
  }
  const made = line(LEFT, y(point.mean), WIDTH - RIGHT, y(point.mean), "curve");
  for (const [name, value] of Object.entries({...coloured(look), ...dashes(look)}))
    made.setAttribute(name, value);
  svg.append(titled(made, markText(point)));
}

function differences(group, some) {
  if (!group.comparable) return null;
  const rows = rowsOf(some);
  const scores = scoresOf(group, some);
  const adapted = rows.filter(row => !row.none);
  const isBase = row => row.method === study.baseline;
  const whole = rows.find(row => row.none && isBase(row)); // a baseline without a budget
  const panels = [...grouped(adapted, row => row.budget).values()].map(ofBudget => {
    const base = ofBudget.find(isBase) ?? whole;
    return base
      ? differencePanel(
          base,
          ofBudget.filter(row => row !== base),
          scores,
        )
      : null;
  });
  const title = runs.find(run => run.method === study.baseline)?.methodTitle;
  return figure(
    `Differences from ${title}${whole ? "" : " at equal budget"}.`,
    "In points, paired by seed: dots are pairs, marks means with a 95 % interval, each by " +
      "itself. The tables of differences correct for the number of comparisons.",
    methodsOf(adapted.filter(row => !isBase(row))),
    panels.filter(Boolean),
  );
}
function differencePanel(base, others, scores) {
  const lines = scores
    .map(([title, of]) => [
      title,
      pointsOf(
        others,
        row => paired(of(row), of(base)),
        () => 0,
      ),
    ])
    .filter(([, points]) => points.length);
  if (!lines.length) return null;
  const numbers = lines.flatMap(([, points]) => extentOf(points));
  const canvas = panel({
    title: `budget ${others[0].budgetTitle}`,
    label: lines.map(([title, points]) => inWords(title, points)).join("; "),
    across: axisOf(numbers, {zero: true}),
    // Downwards, a line a score.
    up: {at: place => 1 - (place + 0.5) / lines.length, ticks: lines.map((_, i) => i)},
    // "RTE" of "RTE acc", "average" of "average of 5 tasks".
    upFormat: place => lines[place][0].split(" ")[0],
    below: `points more than ${base.title}`,
    height: TOP + BOTTOM + Math.max(70, lines.length * Math.max(18, 7 * others.length)),
  });
  canvas.svg.append(line(canvas.x(0), TOP, canvas.x(0), canvas.y(lines.length - 0.5), "axis"));
  lines.forEach(([, points], place) => {
    points.forEach((point, i) => {
      // The methods that the score has beside each other, around its line, within three quarters.
      const aside = i - (points.length - 1) / 2;
      drawDifference(canvas, point, place + (0.75 * aside) / others.length);
    });
  });
  return canvas.svg;
}
// What scores are more than others, by seed and task: of the seeds that both have.
function paired(maps, others) {
  return maps.map((map, i) => {
    const both = [...map].filter(([seed]) => others[i].has(seed));
    return new Map(both.map(([seed, score]) => [seed, score - others[i].get(seed)]));
  });
}
function drawDifference(canvas, point, height) {
  const look = LOOKS[point.row.method];
  const pairs = point.seeds.map(difference => [difference, height]);
  dots(canvas, pairs, look);
  interval(canvas, point, [point.low, height], [point.high, height], look);
  mark(canvas, point.mean, height, look, markText(point));
}

const COSTS = [
  ["adapter parameters", "params"],
  ["seconds of training", "seconds"],
];
function scoreByCost(group, some) {
  const rows = rowsOf(some);
  // The average, or the one task that it would be over. Not WNLI, which stands apart in print, too.
  const averaged = scoresOf(group, some).filter(([, , tasks]) =>
    tasks.every(task => group.averaged.includes(task)),
  );
  if (!averaged.length) return null;
  const [title, of, tasks] = averaged.at(-1);
  const panels = COSTS.map(([below, key]) => {
    const points = pointsOf(rows, of, costOf(key, tasks)).filter(point => point.x > 0);
    return points.length > 1 ? costPanel(points, title, below) : null;
  });
  return figure(
    "Score against cost.",
    "Means over seeds with their 95 % interval, a mark for each method and budget; " +
      "the line joins those that no cheaper one beats.",
    methodsOf(rows),
    panels.filter(Boolean),
  );
}
function costPanel(points, title, below) {
  points.sort((a, b) => a.x - b.x);
  const costs = points.map(point => point.x);
  const canvas = panel({
    title,
    label: inWords(`${title} against ${below}`, points),
    below,
    format: size,
    across: axisOf(costs, {log: true}),
    up: axisOf(extentOf(points.map(point => ({...point, seeds: []}))), {most: MOST.score}),
  });
  const {places, canvas: placed} = spread(canvas, costs);
  const joined = frontOf(points).map(point => [places[points.indexOf(point)], point.mean]);
  canvas.svg.append(drawing("path", {d: pathOf(placed, joined), class: "front"}));
  points.forEach((point, i) => {
    const look = LOOKS[point.row.method];
    interval(placed, point, [places[i], point.low], [places[i], point.high], look);
    mark(placed, places[i], point.mean, look, `${markText(point)} at ${size(point.x)}`);
  });
  return canvas.svg;
}
// The points that score more than every one that costs no more, cheapest first, as in print.
function frontOf(points) {
  const best = [];
  for (const point of [...points].sort((a, b) => a.x - b.x || b.mean - a.mean)) {
    if (!best.length || point.mean - best.at(-1).mean > study.rounding) best.push(point);
  }
  return best;
}
