// What happens on clicks and keys.

const table = one("all-runs");
const filter = one("filter");
const rows = fillRuns(table);
let left = runs;
let picked = [];

// Shows the rows of the runs that the filter leaves, and their figures a moment later: while
// somebody types, drawing would make the letters wait.
let waiting;
function applyFilter(delay) {
  const {test, problem} = filterOf(filter.value);
  left = runs.filter(test);
  const numbers = new Set(left.map(run => run.number));
  rows.forEach((row, number) => {
    row.hidden = !numbers.has(number);
  });
  one("filter-count").textContent =
    problem || `${left.length.toLocaleString("en")} of ${runs.length.toLocaleString("en")} runs`;
  one("filter-count").className = problem ? "wrong" : "";
  one("csv").disabled = left.length === 0;
  clearTimeout(waiting);
  const draw = () => drawFigures(one("figures"), left);
  if (delay) waiting = setTimeout(draw, delay);
  else draw();
}

// At most two runs are picked; a third takes the place of the first.
function pick(box) {
  const number = Number(box.dataset.pick);
  picked = picked.filter(other => other !== number);
  if (box.checked) picked.push(number);
  if (picked.length > 2) rows[picked.shift()].querySelector("input").checked = false;
  one("compare").disabled = picked.length < 2;
  one("compare").textContent = picked.length ? `compare (${picked.length} of 2)` : "compare";
}

// In the order that the table has on the screen.
function saveCsv() {
  const shown = [...table.tBodies[0].rows]
    .filter(row => !row.hidden)
    .map(row => runs[row.dataset.number]);
  download("runs.csv", csvOf(shown));
}

document.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (button?.dataset.run) openRun(runs[button.dataset.run]);
  else if (button?.matches("thead button")) sortBy(button.closest("table"), button.closest("th"));
  else if (button?.matches("[data-close]")) button.closest("dialog").close();
});
document.addEventListener("change", event => {
  if (event.target.matches("[data-pick]")) pick(event.target);
});
filter.addEventListener("input", () => applyFilter(150));
filter.addEventListener("keydown", event => {
  if (event.key !== "Escape") return;
  filter.value = "";
  applyFilter(0);
});
one("compare").addEventListener("click", () =>
  openComparison(...picked.map(number => runs[number])),
);
one("csv").addEventListener("click", saveCsv);
// A line beside the first column once something is hidden behind it. Scrolling does not bubble.
document.addEventListener(
  "scroll",
  event => {
    if (event.target.classList?.contains("wide"))
      event.target.classList.toggle("scrolled", event.target.scrollLeft > 0);
  },
  true,
);

defineLooks();
applyFilter(0);
