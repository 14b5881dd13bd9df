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
const CURVES = [["score", "development score"], ["loss", "training loss"], ["live", "live components"]];
function figuresOf(looked) {
  const curves = CURVES.map(([name, title]) => curvePanel(looked, name, title)).filter(Boolean);
  const maps = looked.map(([run], i) => run.ranks && heatMap(looked.length > 1 ? `ranks of the ${["first", "second"][i]}` : "ranks at the end", [run]));
  return [...curves, ...maps.filter(Boolean)];
}
function curvePanel(looked, name, title) {
  const lines = looked.map(([run, look]) => [run, look, curveOf(run, name)]).filter(([, , points]) => points.length);
  if (!lines.length) return null;
  const all = lines.flatMap(([, , points]) => points);
  const label = `${title}, last values: ${lines.map(([run, , points]) => `${run.name} ${short(points.at(-1)[1])}`).join(", ")}`;
  const canvas = panel({title, label, below: "step", across: axisOf(all.map(([step]) => step), {zero: true}), up: axisOf(all.map(([, value]) => value))});
  for (const [, look, points] of lines) {
    curve(canvas, name === "live" ? stepped(points) : points, look, look.dashed);
    // Evaluations are few, and each is a measurement; the other curves are lines.
    if (name === "score") dots(canvas, points, look);
  }
  return canvas.svg;
}

function openComparison(a, b) {
  const looks = [LOOKS[a.method], LOOKS[b.method]];
  // Two runs of one method would have one colour.
  const looked = [[a, {...looks[0], marker: null}], [b, {...looks[a.method === b.method ? 0 : 1], marker: null, dashed: true}]];
  one("comparison-body").replaceChildren(
    comparedNumbers(a, b),
    element("h3", {}, "Curves and ranks"),
    legend(looked.map(([run, look], i) => [`${["first", "second"][i]}: ${run.name}`, look])),
    element("div", {class: "panels"}, ...figuresOf(looked)),
    ...comparedRecords(a, b),
  );
  show(one("comparison"));
}

const NUMBERS = [["score", run => run.score, 2], ["at step", run => run.step, 0], ["parameters", run => run.params, 0],
  ["training s", run => run.seconds, 0], ["components at the end", run => (run.ranks ? run.ranks[2].reduce((a, b) => a + b, 0) : null), 0]];
function comparedNumbers(a, b) {
  const worded = (number, digits, sign) => number === null ? "–" : signed(number.toLocaleString("en",
    {minimumFractionDigits: digits, maximumFractionDigits: digits, signDisplay: sign ? "exceptZero" : "auto"}));
  const rows = NUMBERS.map(([name, of, digits]) => {
    const [x, y] = [of(a), of(b)], more = x === null || y === null ? null : y - x;
    return [name, worded(x, digits), worded(y, digits), worded(more, digits, true)];
  });
  return comparisonTable("Results", ["", a.name, b.name, "second − first"], rows, "");
}

// Fields that hardly ever agree and say nothing of what was trained come last.
const LATE = ["words", "command", "times", "starts", "host", "train_s", "peak_memory_bytes", "results"];
function comparedRecords(a, b) {
  const numbers = study.fields.map((_, field) => field).filter(field => a.record[field] !== b.record[field]);
  const settings = numbers.filter(field => study.fields[field][0] === "config");
  const rest = numbers.filter(field => !settings.includes(field) && !LATE.includes(study.fields[field][0]));
  const equal = study.fields.filter((path, field) => path[0] === "config" && a.record[field] !== null && a.record[field] === b.record[field]).length;
  const rows = fields => fields.map(field => [
    (study.fields[field][0] === "config" ? study.fields[field].slice(1) : study.fields[field]).join("."),
    ...[a, b].map(run => (a.record[field] ?? b.record[field]) === null ? "–" : wordedValue(valueAt(run, field)))]);
  const head = ["", a.name, b.name];
  return [
    comparisonTable(`Settings that differ: ${settings.length}; ${equal} are equal`, head, rows(settings), "value"),
    ...(rest.length ? [comparisonTable("Other parts of the records that differ", head, rows(rest), "value")] : []),
  ];
}
const wordedValue = value => (value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value));

function comparisonTable(caption, head, rows, kind) {
  const id = `comparison-${caption.split(" ")[0].toLowerCase()}`;
  const heads = head.map(text => text === "" ? element("td", {}, "") : element("th", {scope: "col", class: kind ? "text" : ""}, text));
  const lines = rows.map(([name, ...cells]) => element("tr", {}, element("th", {scope: "row"}, name),
    ...cells.map(cell => element("td", {class: kind}, cell))));
  const table = element("table", {}, element("caption", {}, element("span", {id}, caption)),
    element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines));
  return element("div", {class: "wide", role: "region", tabindex: "0", "aria-labelledby": id}, table);
}
