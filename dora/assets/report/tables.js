// Tables: sorting of all of them, the table of runs, and its CSV file.

// The number a cell begins with (76.8 of "76.8 ± 1.3", 332000 of "0.332M to 0.4M", 8 of "r8", 0.002
// of "2e-3"), or its text. Cells of runs carry their value.
function sortKey(cell) {
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  const text = cell.textContent.trim();
  const found = text.replace(/,/g, "").match(/^(?:all |<|\[)?r?([+-]?\d[\d.]*(?:e-?\d+)?)([kM]?)(?!\w)/);
  return found ? Number(found[1]) * ({k: 1e3, M: 1e6}[found[2]] ?? 1) : text.toLowerCase();
}
// Numbers come before words.
function order(a, b) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return typeof a === "number" ? a - b : a.localeCompare(b);
}

function sortBy(table, head) {
  const column = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map(row => [sortKey(row.cells[column]), row]);
  // An empty cell is last in both directions. Equal ones stay in the order they have.
  rows.sort(([a], [b]) => (a === "–") - (b === "–") || (down ? order(b, a) : order(a, b)));
  table.tBodies[0].append(...rows.map(([, row]) => row));
  // Rules divide budgets, which are now mixed.
  table.querySelectorAll(".rule").forEach(row => row.classList.remove("rule"));
}

// Budgets stand by kind, average ranks before numbers of parameters, then by size.
const orderOfBudgets = ([kind, size], [otherKind, otherSize]) =>
  kind - otherKind || size - otherSize;
const budgets = runs
  .map(run => run.budgetOrder)
  .sort(orderOfBudgets)
  .map(String);

// head; text of a cell, and a mark behind it; `value`: a number to sort by where the text does not
// begin with it; `words` stand on the left; `named`: a part of the run's name, too, so that a
// telephone has no need of the column.
const COLUMNS = [
  {head: "task", text: run => run.taskTitle, words: true, named: true},
  {head: "model", text: run => run.modelTitle, words: true, named: true, only: SEVERAL.model},
  {head: "data", text: run => run.data, words: true, named: true, only: SEVERAL.data},
  {head: "method", text: run => run.methodTitle, words: true, named: true},
  {
    head: "budget",
    text: run => run.budgetTitle,
    value: run => (run.budgetTitle === "–" ? null : budgets.indexOf(String(run.budgetOrder))),
  },
  {head: "seed", text: run => String(run.seed)},
  {
    head: "score",
    text: run => fixed(run.score, 2),
    value: run => run.score,
    mark: run => run.degenerate && "*",
  },
  {head: "metric", text: run => run.metric.slice(run.taskTitle.length + 1), words: true},
  {head: "at step", text: run => run.step.toLocaleString("en")},
  {
    head: "parameters",
    text: run => (run.all ? "all " : "") + size(run.params),
    value: run => run.params,
  },
  {
    head: "training s",
    text: run => Math.round(run.seconds).toLocaleString("en"),
    value: run => run.seconds,
  },
  {head: "commit", text: run => run.commit || "–", mark: run => run.dirty && "§", words: true},
].filter(column => column.only !== false);

// Fills the table of runs; returns its rows, by number of the run.
function fillRuns(table) {
  for (const column of [{head: "run", words: true}, ...COLUMNS]) {
    const button = element("button", {type: "button"}, column.head);
    table.tHead.rows[0].append(element("th", {scope: "col", class: kindOf(column)}, button));
  }
  const rows = runs.map(rowOf);
  table.tBodies[0].append(...rows);
  return rows;
}

function kindOf(column) {
  return `${column.words ? "text" : ""} ${column.named ? "named" : ""}`.trim();
}

function rowOf(run) {
  const tick = element("input", {
    type: "checkbox",
    "aria-label": `compare ${run.name}`,
    "data-pick": run.number,
  });
  const open = element("button", {type: "button", "data-run": run.number}, run.inTable);
  // On a telephone the columns of model and data are far away.
  if (run.elsewhere) open.append(element("span", {class: "narrow"}, run.elsewhere));
  // By number, the table's own order, in which budgets stand by size.
  const head = element(
    "th",
    {scope: "row", "data-value": run.number},
    element("span", {class: "pick"}, tick),
    open,
  );
  const row = element("tr", {"data-number": run.number}, head);
  for (const column of COLUMNS) {
    const cell = element("td", {class: kindOf(column)}, column.text(run));
    // A mark takes no room: the digits before it stay under those of other rows.
    if (column.mark?.(run)) cell.append(element("span", {class: "after"}, column.mark(run)));
    const value = column.value?.(run) ?? null;
    if (value !== null) cell.dataset.value = value;
    row.append(cell);
  }
  return row;
}

// Names as commands take them and whole numbers: this file is for other programs.
const NAMES = "data task model method budget key seed metric score step params seconds commit";
const CSV = [...NAMES.split(" "), "dirty", "degenerate"];
function csvOf(chosen) {
  const lines = chosen.map(run => CSV.map(key => csvCell(run[key])).join(","));
  return [CSV.join(","), ...lines].join("\n") + "\n";
}
function csvCell(value) {
  if (typeof value !== "string") return String(value ?? "");
  // A text that a spreadsheet would compute begins with an apostrophe.
  const safe = /^[=+@-]/.test(value) ? "'" + value : value;
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
function download(name, text) {
  const link = element("a", {
    href: URL.createObjectURL(new Blob([text], {type: "text/csv"})),
    download: name,
  });
  link.click();
  // The browser reads the address a moment later.
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
