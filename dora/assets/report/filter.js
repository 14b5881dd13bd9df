// The filter: words and fields, as `rte method:lora,dora score>80 -seed:1`.

// Fields with names of their own; all others are settings of the record's configuration.
const FIELDS = {
  task: run => [run.task, run.taskTitle],
  method: run => [run.method, run.methodTitle],
  model: run => [run.model, run.modelTitle],
  data: run => [run.data],
  budget: run => [run.budget, run.budgetTitle],
  seed: run => [run.seed],
  score: run => [run.score],
  metric: run => [run.metric],
  step: run => [run.step],
  parameters: run => [run.params],
  seconds: run => [run.seconds],
  commit: run => [run.commit],
  key: run => [run.key],
};

// Returns {test, problem}: whether a run is left, and what is wrong with the text, or "".
function filterOf(text) {
  const conditions = [],
    problems = [];
  for (const word of text.match(/(?:"[^"]*"?|\S)+/g) ?? []) {
    const [, minus, field, sign, value] = word.match(
      /^(-?)(?:([a-z_][\w.]*)(<=|>=|[:=<>]))?(.*)$/i,
    );
    const plain = value.replaceAll('"', "").toLowerCase();
    if (plain === "") continue; // `method:` while it is being typed
    const test = field
      ? fieldTest(field.toLowerCase(), sign, plain)
      : run => words(run).includes(plain);
    if (test === null) problems.push(`no run has a field "${field}"`);
    else conditions.push(minus ? run => !test(run) : test);
  }
  const test = run => problems.length === 0 && conditions.every(condition => condition(run));
  return {test, problem: problems.join("; ")};
}

// All that free words may occur in.
function words(run) {
  run.words ??=
    `${run.name} ${run.place} ${run.modelTitle} ${run.metric} ${run.commit}`.toLowerCase();
  return run.words;
}

function fieldTest(field, sign, wanted) {
  const values = valuesOf(field);
  if (values === null) return null;
  if (sign === ":" || sign === "=") {
    const tests = wanted
      .split(",")
      .filter(Boolean)
      .map(one => equalTest(values, one));
    return run => tests.some(test => test(run));
  }
  const than = number(wanted);
  const compare = {
    "<": value => value < than,
    "<=": value => value <= than,
    ">": value => value > than,
    ">=": value => value >= than,
  }[sign];
  return run => values(run).some(value => value !== null && compare(number(value)));
}

// `lora` is LoRA alone, not AdaLoRA too; only a value that no run has is looked for as a part.
function equalTest(values, wanted) {
  const same = value =>
    text(value) === wanted || (!Number.isNaN(number(wanted)) && number(value) === number(wanted));
  const equal = run => values(run).some(same);
  return runs.some(equal) ? equal : run => values(run).some(value => text(value).includes(wanted));
}
const text = value =>
  value === null || value === undefined ? "none" : String(value).toLowerCase();

// The number that a value is, in the ways that commands take one: 0.3M, 300k, 300_000, 2e-3.
function number(value) {
  const found = text(value).match(/^([+-]?[\d.][\d_.,]*(?:e[+-]?\d+)?)([km]?)$/);
  if (!found) return NaN;
  // Rounded, since 0.3 * 1e6 has a last digit of its own.
  return Number(
    (Number(found[1].replace(/[_,]/g, "")) * ({k: 1e3, m: 1e6}[found[2]] ?? 1)).toPrecision(12),
  );
}

// Returns the function of a run to its values of a field, null where no run has the field.
function valuesOf(name) {
  if (Object.hasOwn(FIELDS, name)) return FIELDS[name];
  const field = study.fields.findIndex(path =>
    [path.join("."), path.slice(1).join(".")].some(known => known.toLowerCase() === name),
  );
  return field < 0 ? null : run => [valueAt(run, field)].flat();
}
