// The study's data, as dora/analysis/page/study_data.py writes it, and how it is worded.
const study = JSON.parse(document.getElementById("study").textContent);
const runs = study.runs;
const several = key => new Set(runs.map(run => run[key])).size > 1;
const SEVERAL = {model: several("model"), data: several("data")};

runs.forEach((run, number) => {
  run.number = number;
  run.place = [run.data, run.task, run.model, run.method, run.budget, run.key, "s" + run.seed].join(
    "/",
  );
  const parts = [
    run.taskTitle,
    run.methodTitle,
    run.budgetTitle === "–" ? "" : run.budgetTitle,
    "s" + run.seed,
  ];
  run.inTable = parts.filter(Boolean).join(" ");
  run.elsewhere =
    (SEVERAL.model ? " " + run.modelTitle : "") + (SEVERAL.data ? " " + run.data : "");
  // "RTE LoRA 0.3M s1"; with the model and the data where the study has several.
  run.name = run.inTable + run.elsewhere;
});

// Values of a record's leaves; undefined where the run lacks the field.
function valueAt(run, field) {
  const place = run.record[field];
  return place === null ? undefined : study.pools[field][place];
}

// The record as nested objects again.
function recordOf(run) {
  const record = {};
  study.fields.forEach((path, field) => {
    const value = valueAt(run, field);
    if (value === undefined) return;
    let inside = record;
    for (const key of path.slice(0, -1)) {
      // A record may be somebody else's: "__proto__" is a key like any other.
      if (!Object.hasOwn(inside, key)) define(inside, key, {});
      inside = inside[key];
    }
    define(inside, path.at(-1), value);
  });
  return record;
}
function define(object, key, value) {
  Object.defineProperty(object, key, {value, enumerable: true, configurable: true, writable: true});
}

// The largest value that each curve can have; one without has no bound.
const MOST = {score: 100};

// [[step, value], ...] of a run's "score", "loss" or "live" components; empty where it has none.
function curveOf(run, name) {
  const [steps, values] = run.curves[name] ?? [null, []];
  return values.map((value, i) => [study.steps[steps][i], value]);
}

// [{layer, kind, start, end}, ...] of a run's matrices; empty for a method without ranks.
function ranksOf(run) {
  if (!run.ranks) return [];
  const [matrices, start, end] = run.ranks;
  return study.matrices[matrices].map(([layer, kind], i) => ({
    layer,
    kind,
    start: start[i],
    end: end[i],
  }));
}

// A number of parameters in three digits, as tables print it: 770, 13.8k, 0.332M. A mean of such
// numbers is rounded to a whole one.
function size(number) {
  const whole = Math.round(number);
  if (whole < 1000 || whole >= 999500000) return whole.toLocaleString("en");
  const [unit, name] = whole >= 100000 ? [1e6, "M"] : [1e3, "k"];
  return Number((whole / unit).toPrecision(3)) + name;
}
const fixed = (number, digits) => (number === null ? "–" : signed(number.toFixed(digits)));
const signed = text => text.replace("-", "−");
const mean = numbers => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;

// Lists by key, in the order in which the keys first occur.
function grouped(items, key) {
  const found = new Map();
  for (const item of items) {
    const of = key(item);
    if (!found.has(of)) found.set(of, []);
    found.get(of).push(item);
  }
  return found;
}

// An element with attributes and children. Text becomes text, never HTML: it may be anybody's.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
