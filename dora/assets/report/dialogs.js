// The dialogs: one run's record, and two runs side by side.

const one = id => document.getElementById(id);

function openRun(run) {
  one("run-name").textContent = run.name;
  one("run-place").textContent = run.place;
  one("run-command").textContent = run.typed;
  one("run-figures").replaceChildren(...figuresOf([[run, LOOKS[run.method]]]));
  one("run-record").textContent = JSON.stringify(recordOf(run), null, 2);
  show(one("run"));
}
function show(dialog) {
  dialog.showModal();
  dialog.scrollTop = 0;
}

// Curves and ranks of some runs, each with its look.
const CURVES = [
  ["score", "development score"],
  ["loss", "training loss"],
  ["live", "live components"],
];
function figuresOf(looked) {
  const curves = CURVES.map(([name, title]) => curvePanel(looked, name, title));
  const whose =
    looked.length > 1 ? ["ranks of the first", "ranks of the second"] : ["ranks at the end"];
  const maps = looked.map(([run], i) => (run.ranks ? heatMap(whose[i], [run]) : null));
  return [...curves, ...maps].filter(Boolean);
}
function curvePanel(looked, name, title) {
  const lines = looked
    .map(([run, look]) => [run, look, curveOf(run, name)])
    .filter(([, , points]) => points.length);
  if (!lines.length) return null;
  const all = lines.flatMap(([, , points]) => points);
  const last = lines.map(([run, , points]) => `${run.name} ${short(points.at(-1)[1])}`);
  const steps = all.map(([step]) => step);
  const canvas = panel({
    title,
    label: `${title}, last values: ${last.join(", ")}`,
    below: "step",
    across: axisOf(steps, {zero: true}),
    up: axisOf(all.map(([, value]) => value), {most: MOST[name]}),
  });
  for (const [, look, points] of lines) {
    curve(canvas, name === "live" ? stepped(points) : points, look);
    // Evaluations are few, and each is a measurement; the other curves are lines.
    if (name === "score") dots(canvas, points, look);
  }
  return canvas.svg;
}

function openComparison(a, b) {
  // Two runs of one method have one colour.
  const looked = [
    [a, {...LOOKS[a.method], marker: null}],
    [b, {...LOOKS[b.method], marker: null, dashed: true}],
  ];
  const names = [`first: ${a.name}`, `second: ${b.name}`];
  one("comparison-body").replaceChildren(
    comparedNumbers(a, b),
    element("h3", {}, "Curves and ranks"),
    legend(looked.map(([, look], i) => [names[i], look])),
    element("div", {class: "panels"}, ...figuresOf(looked)),
    ...comparedRecords(a, b),
  );
  show(one("comparison"));
}

const NUMBERS = [
  ["score", run => run.score, 2],
  ["at step", run => run.step, 0],
  ["parameters", run => run.params, 0],
  ["training s", run => run.seconds, 0],
  ["components at the end", run => run.ranks?.[2].reduce((a, b) => a + b, 0) ?? null, 0],
];
function comparedNumbers(a, b) {
  const rows = NUMBERS.map(([name, of, digits]) => {
    const [x, y] = [of(a), of(b)];
    // Scores of two metrics have no difference.
    const apart = x === null || y === null || (name === "score" && a.metric !== b.metric);
    const more = apart ? null : y - x;
    return [name, worded(x, digits), worded(y, digits), worded(more, digits, "exceptZero")];
  });
  return comparisonTable("Results", ["", a.name, b.name, "second − first"], rows, "");
}
// A number with commas; `sign`: when it has one.
function worded(number, digits, sign = "auto") {
  if (number === null) return "–";
  const places = {minimumFractionDigits: digits, maximumFractionDigits: digits};
  return signed(number.toLocaleString("en", {...places, signDisplay: sign}));
}

// Parts of a record that hardly ever agree and say nothing of what was trained.
const LEFT_OUT = new Set(
  "words command times starts host train_s peak_memory_bytes results".split(" "),
);
function comparedRecords(a, b) {
  const isSetting = field => study.fields[field][0] === "config";
  const fields = study.fields.map((_, field) => field);
  const differing = fields.filter(field => a.record[field] !== b.record[field]);
  const settings = differing.filter(isSetting);
  const rest = differing.filter(
    field => !isSetting(field) && !LEFT_OUT.has(study.fields[field][0]),
  );
  const known = fields.filter(field => isSetting(field) && a.record[field] !== null);
  const equal = known.filter(field => a.record[field] === b.record[field]).length;
  const head = ["", a.name, b.name];
  const tableOf = (caption, of) =>
    comparisonTable(
      caption,
      head,
      of.map(field => comparedField(field, a, b)),
      "value",
    );
  const found = [tableOf(`Settings that differ: ${settings.length}; ${equal} are equal`, settings)];
  if (rest.length) found.push(tableOf("Other parts of the records that differ", rest));
  return found;
}
function comparedField(field, ...both) {
  // Settings go by the names that commands have for them.
  const path = study.fields[field].slice(study.fields[field][0] === "config" ? 1 : 0);
  return [path.join("."), ...both.map(run => wordedValue(valueAt(run, field)))];
}
function wordedValue(value) {
  if (value === undefined) return "–";
  return typeof value === "string" ? value : JSON.stringify(value);
}

function comparisonTable(caption, head, rows, kind) {
  const id = `comparison-${caption.split(" ")[0].toLowerCase()}`;
  const heads = head.map(text =>
    text === ""
      ? element("td", {}, "")
      : element("th", {scope: "col", class: kind ? "text" : ""}, text),
  );
  const lines = rows.map(([name, ...cells]) =>
    element(
      "tr",
      {},
      element("th", {scope: "row"}, name),
      ...cells.map(cell => element("td", {class: kind}, cell)),
    ),
  );
  const table = element(
    "table",
    {},
    element("caption", {}, element("span", {id}, caption)),
    element("thead", {}, element("tr", {}, ...heads)),
    element("tbody", {}, ...lines),
  );
  return element(
    "div",
    {class: "wide", role: "region", tabindex: "0", "aria-labelledby": id},
    table,
  );
}
