// Figures of training, of some runs of one table, and all figures together.

// A curve's mean, lowest and highest value at each step, over runs that have one there. Components
// stay until they change, and as they are where `patience` ended the run.
function summary(some, name) {
  const curves = some.map(run => curveOf(run, name)).filter(points => points.length);
  const steps = new Set(curves.flat().map(([step]) => step));
  return [...steps]
    .sort((a, b) => a - b)
    .map(step => {
      const isAt = ([place]) => (name === "live" ? place <= step : place === step);
      const points = curves.map(points => points.findLast(isAt)).filter(Boolean);
      const of = points.map(([, value]) => value);
      return {step, mean: mean(of), low: Math.min(...of), high: Math.max(...of)};
    });
}
// Curves of every task, each method at its largest budget.
function curvesByTask(some, name, title, caption) {
  const rows = largest(rowsOf(some.filter(run => run.curves[name])));
  const panels = byTask(rows).map(([task, cells]) => curvesPanel(task, cells, name));
  const legends = rows.map(row => [row.name, LOOKS[row.method]]);
  return figure(title, caption, legends, panels);
}
// [[task, [[row, its runs], ...]], ...]
function byTask(rows) {
  const all = rows.flatMap(row => row.runs);
  return [...new Set(all.map(run => run.taskTitle))].map(task => {
    const cells = rows.map(row => [row, row.runs.filter(run => run.taskTitle === task)]);
    return [task, cells.filter(([, of]) => of.length)];
  });
}
function curvesPanel(task, cells, name) {
  const lines = cells.map(([row, of]) => [row, summary(of, name)]);
  const all = lines.flatMap(([, points]) => points);
  const last = lines.map(([row, points]) => `${row.name} ${short(points.at(-1).mean)}`);
  const steps = all.map(point => point.step);
  const canvas = panel({
    title: task,
    label: `${task}, last values: ${last.join(", ")}`,
    below: "step",
    across: axisOf(steps, {zero: true}),
    up: axisOf(
      all.flatMap(point => [point.low, point.high]),
      {most: MOST[name]},
    ),
  });
  const shaped = name === "live" ? stepped : points => points;
  for (const [row, points] of lines) {
    const look = LOOKS[row.method];
    const ends = points.map(point => [point.step, point.low, point.high]);
    const means = points.map(point => [point.step, point.mean]);
    band(canvas, ends, look);
    curve(canvas, shaped(means), look);
    // At most ten marks, the last at the end: they tell the lines apart where colours do not.
    const every = Math.ceil(means.length / 10);
    for (const [step, value] of means.filter((_, i) => (means.length - 1 - i) % every === 0)) {
      canvas.svg.append(symbol(look, canvas.x(step), canvas.y(value), 3));
    }
  }
  return canvas.svg;
}

function finalRanks(some) {
  // Rows as in print, with all of their runs: one that ends as it began counts in the means, too.
  const adapted = run => ranksOf(run).some(matrix => matrix.start !== matrix.end);
  const rows = rowsOf(some.filter(run => run.ranks)).filter(row => row.runs.some(adapted));
  const panels = byTask(largest(rows)).flatMap(([task, cells]) =>
    cells.map(([row, of]) => heatMap(`${task}, ${row.name}`, of)),
  );
  return figure(
    "Ranks at the end.",
    "Layer by kind of matrix, means over seeds, each method at its largest budget; " +
      "colour: share of the panel's largest rank at the start or the end, " +
      "from none (blue) to all (yellow).",
    [],
    panels,
  );
}
// Mean ranks of runs at the end, a row a layer, from the lowest upwards.
function heatMap(title, some) {
  const cells = meanRanks(some);
  const layers = [...new Set(cells.map(cell => cell.layer))].sort((a, b) => a - b);
  const kinds = study.kinds.filter(kind => cells.some(cell => cell.kind === kind));
  const wide = (WIDTH - LEFT - RIGHT) / kinds.length;
  const bottom = TOP + layers.length * HIGH;
  const digits = cells.every(cell => Number.isInteger(cell.end)) ? 0 : 1;
  const live = cells.reduce((sum, cell) => sum + cell.end, 0);
  const svg = drawing("svg", {
    viewBox: `0 0 ${WIDTH} ${bottom + 20}`,
    role: "img",
    "aria-label": `${title}: ${short(live)} components at the end`,
  });
  svg.append(write(title, WIDTH / 2, 12, {class: "title", "text-anchor": "middle"}));
  for (const cell of cells) {
    const x = LEFT + kinds.indexOf(cell.kind) * wide;
    const y = bottom - (layers.indexOf(cell.layer) + 1) * HIGH;
    svg.append(...rankCell(cell, x, y, wide, digits));
  }
  layers.forEach((layer, i) => svg.append(beside(layer, bottom - i * HIGH - 4)));
  kinds.forEach((kind, i) => svg.append(centred(kind, LEFT + (i + 0.5) * wide, bottom + 12)));
  svg.append(beside("layer", bottom + 12));
  return svg;
}
const HIGH = 15; // of a row, in units of the panel
const beside = (text, y) => write(text, LEFT - 5, y, {"text-anchor": "end"});
const centred = (text, x, y) => write(text, x, y, {"text-anchor": "middle"});

// {layer, kind, start, end, share} of each matrix, means over runs. As in print, the share is of the
// largest mean at the start or the end: a method may shrink them all, or let them grow from nothing.
function meanRanks(some) {
  const matrices = grouped(some.flatMap(ranksOf), ({layer, kind}) => `${layer} ${kind}`);
  const means = [...matrices.values()].map(of => ({
    layer: of[0].layer,
    kind: of[0].kind,
    start: mean(of.map(one => one.start)),
    end: mean(of.map(one => one.end)),
  }));
  const most = Math.max(...means.flatMap(({start, end}) => [start, end])) || 1;
  return means.map(one => ({...one, share: one.end / most}));
}
function rankCell(cell, x, y, wide, digits) {
  // A little smaller than its place, so that cells are told apart.
  const size = {width: wide - 0.8, height: HIGH - 0.8};
  const box = drawing("rect", {x, y, ...size, fill: shade(cell.share)});
  const number = centred(fixed(cell.end, digits), x + wide / 2, y + 10.5);
  number.style.fill = cell.share > 0.47 ? "#000" : "#fff";
  return [titled(box, `layer ${cell.layer} ${cell.kind}: ${fixed(cell.end, 1)}`), number];
}

// All figures of the runs that are left, under a heading for each table of several.
function drawFigures(into, left) {
  const parts = [];
  for (const [number, some] of grouped(left, run => run.group)) {
    const group = study.groups[number];
    if (study.groups.length > 1) parts.push(element("h3", {}, group.title));
    parts.push(
      scoreBySize(group, some),
      differences(group, some),
      scoreByCost(group, some),
      curvesByTask(
        some,
        "score",
        "Learning curves.",
        "Development score, mean over seeds and from lowest to highest, " +
          "each method at its largest budget.",
      ),
      curvesByTask(
        some,
        "live",
        "Live components.",
        "All components that are left, each method at its largest budget.",
      ),
      finalRanks(some),
    );
  }
  into.replaceChildren(...parts.filter(Boolean));
}
