"""The page in a browser: what it shows after clicks and keys, as a reader would make them."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dora.analysis.figures.training import final_ranks
from dora.analysis.grouping import tables
from dora.analysis.names import size
from dora.analysis.page.page import page
from dora.analysis.stats import Estimate, average, t_quantile
from dora.records import gaps
from dora.records.finished import read_runs
from record_files import names, write_budgets_that_look_alike, write_run
from runs import change_record

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium on this machine"),
]

# Functions for the steps of a test, whose values end in the page.
HELP = """
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const texts = (selector, from) => all(selector, from).map(e => e.textContent.trim());
  const seen = () => all("#all-runs tbody tr").filter(row => !row.hidden);
  const column = name => seen().map(row => row.cells[texts("#all-runs thead th").indexOf(name)].textContent);
  const head = name => all("#all-runs thead button").find(button => button.textContent === name);
  const type = async text => {
    const box = document.getElementById("filter");
    box.value = text; box.dispatchEvent(new Event("input"));
    await new Promise(done => setTimeout(done, 200));  // figures follow when typing stops
    return document.getElementById("filter-count").textContent;
  };
"""


def in_browser(results: Path, steps: str) -> Any:
    """Opens the page of `results`, and returns what `steps`, the body of a function, returns."""
    text = page(tables(read_runs(results)), gaps.scan(results), "a test")
    probe = f"""<pre id="seen"></pre><script>addEventListener("load", async () => {{ {HELP}
      const found = await (async () => {{ {steps} }})();
      document.getElementById("seen").textContent = "SEEN" + JSON.stringify(found) + "END";
    }});</script>"""
    path = results / "page.html"
    path.write_text(text.replace("</body>", probe + "</body>"))
    done = subprocess.run(
        [
            "chromium",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            f"--user-data-dir={results / 'profile'}",
            "--virtual-time-budget=20000",  # the page's clock runs on while nothing happens
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    # Chromium writes every error of a script to its console.
    assert "CONSOLE" not in done.stderr
    found = re.search(r'<pre id="seen">SEEN(.*?)END</pre>', done.stdout, re.DOTALL)
    assert found
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def write_study(results: Path) -> None:
    """Writes full fine-tuning, LoRA and DoRA at three budgets, on two tasks, with journals."""
    modules = names(2)
    for seed in (1, 2):
        for task in ("sst2", "rte"):
            write_run(results, "full", seed, 0.9, task=task, budget="none")
            for budget, params in (("r8", 5000), ("9000", 9000), ("0.3M", 300_000)):
                for method, score in (("lora", 0.85), ("dora", 0.8)):
                    config = {"method": {"name": method, "alpha": 16 if method == "lora" else 8}}
                    end = {name: i % 5 for i, name in enumerate(modules)}
                    ranks = end if method == "dora" else dict.fromkeys(modules, 4)
                    folder = write_run(
                        results,
                        method,
                        seed,
                        score + seed / 100,
                        task=task,
                        budget=budget,
                        params=params,
                        ranks=ranks,
                        config=config,
                    )
                    lines = [{"step": s, "split": "dev", "accuracy": s / 100} for s in (30, 90)]
                    text = "".join(json.dumps(line) + "\n" for line in lines)
                    (folder / "metrics.jsonl").write_text(text)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Returns a folder with the runs of `write_study`."""
    write_study(tmp_path)
    return tmp_path


def test_tables_sort_by_numbers_and_budgets_by_value(results: Path) -> None:
    first, up, down, dashes = in_browser(
        results,
        """
        const scores = document.querySelector("#table-0-0");
        const values = n => [...scores.tBodies[0].rows].map(row => row.cells[n].textContent);
        const before = column("budget");
        head("budget").click(); const up = column("budget");
        head("budget").click(); const down = column("budget");
        scores.tHead.rows[0].cells[1].querySelector("button").click();
        return [before, up, down, values(1)];
        """,
    )
    # Before: each task's methods from the alphabet, their budgets from the smallest.
    assert first[:8] == ["r8", "r8", "9k", "9k", "0.3M", "0.3M", "–", "–"]
    assert up == ["r8"] * 8 + ["9k"] * 8 + ["0.3M"] * 8 + ["–"] * 4
    # An empty cell is last in both directions.
    assert down == ["0.3M"] * 8 + ["9k"] * 8 + ["r8"] * 8 + ["–"] * 4
    assert dashes == ["r8", "r8", "9k", "9k", "0.3M", "0.3M", "–"]


def test_cells_sort_by_the_number_they_begin_with(results: Path) -> None:
    texts = ["5e-4", "2.83e-3", "1e-3", "0.332M to 0.4M", "76.8 ± 1.3", "r8", "<0.001", "dem", "–"]
    keys = in_browser(
        results,
        f"""
        const cell = text => ({{dataset: {{}}, textContent: text}});
        return {json.dumps(texts)}.map(text => sortKey(cell(text)));
        """,
    )
    assert keys == [5e-4, 2.83e-3, 1e-3, 332_000, 76.8, 8, 0.001, "dem", "–"]


# What is typed into the filter, and how many of 28 runs are left.
FILTERS = {
    "method:lora task:rte": 6,
    "METHOD:LoRA task=RTE budget:300k": 2,
    'method:"full fine-tuning"': 4,
    "method:lora,dora seed:1": 12,
    "method:dyn": 12,  # a part of DoRA's title
    "rte dora s2": 3,
    "-method:full budget:0.3M": 8,
    "score>=86 score<90": 12,
    "budget<10000 budget>0 task:rte seed:1": 2,
    "method.alpha:16": 12,
    "method:": 28,
}


@pytest.mark.parametrize(("text", "left"), FILTERS.items())
def test_the_filter_takes_words_fields_names_and_titles(
    text: str, left: int, shown: dict[str, list[str]]
) -> None:
    count, rows, _ = shown[text]
    assert count == f"{left} of 28 runs"
    assert rows == left


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Returns for each text of the filter its count, the number of rows, and the figures' titles."""
    folder = tmp_path_factory.mktemp("filter")
    write_study(folder)
    asked = [*FILTERS, "nonsense:1", "nowhere"]
    steps = f"""
      const found = {{}};
      for (const text of {json.dumps(asked)}) {{
        const count = await type(text);
        found[text] = [count, seen().length, texts("#figures figcaption b")];
      }}
      return found;
    """
    return dict(in_browser(folder, steps))


def test_a_field_that_no_run_has_is_said_and_nothing_is_left(shown: dict[str, Any]) -> None:
    assert shown["nonsense:1"] == ['no run has a field "nonsense"', 0, []]
    assert shown["nowhere"] == ["0 of 28 runs", 0, []]


def test_figures_follow_the_filter(results: Path) -> None:
    everything, some = in_browser(
        results,
        """
        const figures = () => all("#figures figure").map(figure => [figure.querySelector("b").textContent,
          texts("svg .title", figure), texts(".legend li", figure), texts(".mark title", figure).length]);
        const before = figures();
        await type("task:rte method:lora,full");
        return [before, figures()];
        """,
    )
    names = [figure[0] for figure in everything]
    assert names == [
        "Score against parameters.",
        "Differences from LoRA at equal budget.",
        "Score against cost.",
        "Learning curves.",
        "Ranks at the end.",
    ]
    titles = ["SST-2 acc", "RTE acc", "average of 2 tasks"]
    assert everything[0][1:] == [titles, ["LoRA", "DoRA (dynamic rank)", "full fine-tuning"], 18]
    # Nothing is left to compare with LoRA, and no ranks that training found.
    assert [figure[0] for figure in some] == [names[0], names[2], names[3]]
    assert some[0][1:] == [["RTE acc"], ["LoRA", "full fine-tuning"], 3]


def test_only_what_is_drawn_has_a_legend_and_curves_have_marks(results: Path) -> None:
    write_run(results, "zeta", 1, 0.8, task="rte", budget="9000")  # no average without SST-2
    found = in_browser(
        results,
        """
        const figure = name => all("#figures figure").find(f => f.querySelector("b").textContent === name);
        return [texts(".legend li", figure("Score against parameters.")),
          texts(".legend li", figure("Score against cost.")),
          all(".panels .mark", figure("Learning curves.")).length];
        """,
    )
    both = {"LoRA", "DoRA (dynamic rank)", "full fine-tuning"}
    assert set(found[0]) == {*both, "zeta"}
    assert set(found[1]) == both
    assert found[2] == 2 * 2 * 2  # LoRA and DoRA, two tasks, two evaluations


def test_ranks_are_coloured_as_in_the_figure_for_print(tmp_path: Path) -> None:
    ranks = dict(zip(names(1)[:2], (8, 4), strict=True))
    path = write_run(tmp_path, "xgblora", 1, 0.8, ranks=ranks)
    recorded = json.loads((path / "run.json").read_text())["ranks"]
    change_record(path, ranks={**recorded, "start": dict.fromkeys(ranks, 0)})
    fills = in_browser(
        tmp_path,
        """
        const cells = all("#figures rect").filter(cell => cell.textContent.startsWith("layer"));
        return [cells.map(cell => cell.getAttribute("fill")), [shade(1), shade(0.5)]];
        """,
    )
    assert fills[0] == fills[1]


def test_ranks_are_means_over_all_runs_of_a_row_also_of_one_that_ends_as_it_began(
    tmp_path: Path,
) -> None:
    for seed, rank in ((1, 2), (2, 4)):  # of 4 at the start
        write_run(tmp_path, "dora", seed, 0.8, ranks={names(1)[0]: rank})
    write_run(tmp_path, "lora", 1, 0.8, ranks={names(1)[0]: 4})
    cells = in_browser(
        tmp_path, 'return texts("#figures rect").filter(text => text.startsWith("layer"));'
    )
    drawn = final_ranks(tables(read_runs(tmp_path))[0])
    assert drawn is not None
    assert [line["rank"] for line in drawn[1]] == [3]
    assert cells == ["layer 0 q: 3.0"]


def test_mean_components_stay_as_they_are_where_patience_ended_a_run(tmp_path: Path) -> None:
    name = names(1)[0]
    for seed, rank, end in ((1, 2, 90), (2, 4, 50)):
        path = write_run(tmp_path, "dora", seed, 0.8, ranks={name: rank})
        allocation = {"step": 20, "total": rank, "ranks": {name: rank}}
        (path / "ranks.jsonl").write_text(json.dumps(allocation) + "\n")
        results = json.loads((path / "run.json").read_text())["results"]
        change_record(path, results={**results, "last": {**results["last"], "step": end}})
    found = in_browser(
        tmp_path, 'return summary(runs, "live").map(({step, mean}) => [step, mean]);'
    )
    assert found == [[0, 4], [20, 3], [50, 3], [90, 3]]


def test_numbers_of_parameters_are_worded_as_in_tables(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    numbers = [0, 770, 999, 1000, 13_824, 99_949, 99_950, 100_000, 331_776, 999_499_999]
    numbers += [999_500_000, 1_310_000_000]
    means = {505 + 1 / 3: "505", 999.6: "1k", 99_999.6: "0.1M"}
    found = in_browser(tmp_path, f"return {[*numbers, *means]}.map(size);")
    assert found == [*map(size, numbers), *means.values()]


def test_a_cost_is_averaged_within_each_task_first(tmp_path: Path) -> None:
    # A run of RTE takes 10 s and one of MNLI 1,000; LoRA has more seeds of one, DoRA of the other.
    for method, task, seeds, score in (
        ("lora", "rte", 3, 0.8),
        ("lora", "mnli", 1, 0.8),
        ("dora", "rte", 1, 0.85),
        ("dora", "mnli", 3, 0.85),
    ):
        for seed in range(1, seeds + 1):
            took = 10.0 if task == "rte" else 1000.0
            write_run(tmp_path, method, seed, score, task=task, train_s=took)
    marks = in_browser(
        tmp_path,
        """
        const costs = all("#figures figure").find(f => f.textContent.includes("Score against cost."));
        return texts(".mark", costs).filter(text => text.includes(" at "));
        """,
    )
    assert sum(mark.endswith(" at 505") for mark in marks) == 2


def test_of_equal_costs_the_best_score_alone_is_on_the_line_of_costs(tmp_path: Path) -> None:
    for method, score in (("lora", 0.80), ("dora", 0.85)):  # the row of the lower score is first
        write_run(tmp_path, method, 1, score)
    lines = in_browser(tmp_path, 'return all("path.front").map(path => path.getAttribute("d"));')
    assert len(lines) == 2  # parameters and seconds
    assert not any("L" in line for line in lines)  # a place, and no line to another


def test_a_dearer_row_of_equal_mean_is_not_on_the_line_of_costs(tmp_path: Path) -> None:
    # Equal sums of right answers, of RTE's 277, whose means differ in their last bits.
    for method, params, right in (("lora", 900, (140, 205, 144)), ("dora", 950, (141, 204, 144))):
        for seed, number in enumerate(right, 1):
            write_run(tmp_path, method, seed, number / 277, task="rte", params=params)
    lines = in_browser(tmp_path, 'return all("path.front").map(path => path.getAttribute("d"));')
    assert len(lines) == 2
    assert not any("L" in line for line in lines)


def test_wnli_is_not_set_against_costs(tmp_path: Path) -> None:
    for method, score in (("lora", 0.80), ("dora", 0.85)):
        write_run(tmp_path, method, 1, score)
        write_run(tmp_path, method, 1, score - 0.3, task="wnli")
    panels, alone = in_browser(
        tmp_path,
        """
        const ofCosts = () => all("#figures figure").filter(f => f.textContent.includes("Score against cost."))
          .map(f => texts("svg .title", f));
        const panels = ofCosts();
        await type("task:wnli");
        return [panels, ofCosts()];
        """,
    )
    assert panels == [["SST-2 acc", "SST-2 acc"]]  # against parameters and seconds
    assert alone == []


def test_budgets_that_look_alike_are_not_compared(tmp_path: Path) -> None:
    write_budgets_that_look_alike(tmp_path)
    marks = in_browser(
        tmp_path,
        """
        const apart = all("#figures figure").find(f => f.textContent.includes("Differences from"));
        return all("svg[role=img]", apart).map(svg => texts(".mark title", svg));
        """,
    )
    # One panel with one method: the other LoRA has nothing beside it.
    assert [[text.split(" [")[0] for text in panel] for panel in marks] == [
        ["DoRA (dynamic rank) 0.332M: 5.00"]
    ]


def test_nothing_is_drawn_outside_a_panel(results: Path) -> None:
    for i in range(12):  # as many methods of nearly one size as there can be
        params = {"budget": "9000", "params": 8990 - i}
        write_run(results, f"other{i}", 1, 0.8, task="rte", **params)
    places = in_browser(
        results,
        """
        await type("budget:9000");
        return all("#figures svg[role=img]").flatMap(svg => all(".mark, .interval, .curve, .dots, text", svg).map(e => {
          const box = e.getBBox(), whole = svg.viewBox.baseVal;
          return [box.x, box.y, whole.width - box.x - box.width, whole.height - box.y - box.height];
        }));
        """,
    )
    assert len(places) > 100
    assert min(map(min, places)) >= 0


def test_numbers_that_are_all_alike_are_drawn(tmp_path: Path) -> None:
    # As runs that predict one class: no difference, and means that differ by rounding.
    for method, seeds in (("lora", 5), ("dora", 2)):
        for seed in range(1, seeds + 1):
            write_run(tmp_path, method, seed, 146 / 277, task="rte")
    figures = in_browser(
        tmp_path,
        """
        const ticks = svg => new Set(texts("text[text-anchor=end]", svg)).size;
        return all("#figures figure").map(f => [f.querySelector("b").textContent, all("svg[role=img]", f).map(ticks)]);
        """,
    )
    assert [name for name, _ in figures] == [
        "Score against parameters.",
        "Differences from LoRA at equal budget.",
        "Score against cost.",
    ]
    # Heights with different labels: of scores, and one for the only difference.
    assert min(figures[0][1] + figures[2][1]) >= 3
    assert figures[1][1] == [1]


def test_axes_of_scores_end_at_100(tmp_path: Path) -> None:
    # Equal scores have room of two points on both sides else.
    write_run(tmp_path, "full", 1, 1.0, task="sst2")
    write_run(tmp_path, "lora", 1, 1.0, task="sst2")
    ticks = in_browser(
        tmp_path,
        """
        const whole = all("#figures figure").filter(f => f.querySelector("b").textContent.startsWith("Score"));
        return whole.flatMap(f => all("svg[role=img]", f)).map(svg => texts("text[text-anchor=end]", svg).map(Number));
        """,
    )
    assert len(ticks) >= 2
    assert max(map(max, ticks)) == 100


def test_a_run_opens_with_its_record_curve_and_ranks(results: Path) -> None:
    name, opened, record, titles, closed = in_browser(
        results,
        """
        await type("rte dora 0.3M s2");
        seen()[0].querySelector("button").click();
        const dialog = document.getElementById("run"), open = dialog.open;
        const record = JSON.parse(document.getElementById("run-record").textContent);
        const titles = texts("svg .title", dialog);
        dialog.querySelector("[data-close]").click();
        return [document.getElementById("run-name").textContent, open, record, titles, dialog.open];
        """,
    )
    assert (name, opened, closed) == ("RTE DoRA (dynamic rank) 0.3M s2", True, False)
    stored = json.loads(next(results.glob("runs/dir/rte/*/dora/300000/*/s2/run.json")).read_text())
    assert record["config"] == stored["config"]
    assert titles == ["development score", "ranks at the end"]


def test_two_runs_are_compared(results: Path) -> None:
    disabled, picked, rows, captions, titles = in_browser(
        results,
        """
        const button = document.getElementById("compare"), disabled = [button.disabled];
        await type("rte r8 s1");
        const boxes = seen().map(row => row.querySelector("input"));  // DoRA's and LoRA's run
        await type("rte s1 -budget:r8");
        seen()[0].querySelector("input").click();  // which is replaced: it is the first of three
        for (const box of boxes) { box.click(); disabled.push(button.disabled); }
        const picked = all("#all-runs input:checked").map(box => runs[box.dataset.pick].name);
        button.click();
        const dialog = document.getElementById("comparison");
        const rows = all("tbody tr", dialog).map(row => texts("th, td", row));
        return [disabled, picked, rows, texts("caption", dialog), texts("svg .title", dialog)];
        """,
    )
    assert disabled == [True, False, False]
    assert picked == ["RTE DoRA (dynamic rank) r8 s1", "RTE LoRA r8 s1"]
    assert ["score", "81.00", "86.00", "+5.00"] in rows
    assert ["components at the end", "21", "48", "+27"] in rows
    assert ["method.name", "dora", "lora"] in rows
    assert ["method.alpha", "8", "16"] in rows
    assert captions[1].startswith("Settings that differ: 2; ")
    assert titles == ["development score", "ranks of the first", "ranks of the second"]


def test_the_csv_file_holds_the_rows_that_are_shown_as_they_are_shown(results: Path) -> None:
    text = in_browser(
        results,
        """
        let saved = null;
        URL.createObjectURL = blob => { saved = blob; return "data:,"; };
        HTMLAnchorElement.prototype.click = () => {};
        await type("task:rte method:lora seed:1");
        head("budget").click(); head("budget").click();
        document.getElementById("csv").click();
        return await saved.text();
        """,
    )
    lines = list(csv.DictReader(io.StringIO(text)))
    # Names as commands take them, from the largest budget.
    assert [(x["method"], x["budget"], x["seed"], x["score"], x["params"]) for x in lines] == [
        ("lora", "300000", "1", "86", "300000"),
        ("lora", "9000", "1", "86", "9000"),
        ("lora", "r8", "1", "86", "5000"),
    ]


def test_head_and_first_column_stay_while_the_table_scrolls(results: Path) -> None:
    moved, head, first = in_browser(
        results,
        """
        const frame = document.querySelector(".tall"), table = document.getElementById("all-runs");
        frame.style.maxHeight = "150px"; frame.style.width = "300px";
        const places = () => [table.rows[5].cells[4], table.tHead.rows[0].cells[1], table.rows[5].cells[0]]
          .map(cell => cell.getBoundingClientRect());
        const before = places();
        frame.scrollTo(200, 100);
        const after = places();
        return after.map((place, i) => [place.left - before[i].left, place.top - before[i].top]);
        """,
    )
    assert moved == [-200, -100]
    assert head == [-200, 0]
    assert first == [0, -100]


def test_intervals_are_those_of_the_statistics_for_the_seeds_that_the_filter_leaves(
    tmp_path: Path,
) -> None:
    scores = {  # task → method → score by seed
        "sst2": {"lora": [0.801, 0.853, 0.822, 0.99], "dora": [0.911, 0.903, 0.948, 0.1]},
        "rte": {"lora": [0.61, 0.58, 0.66, 0.01], "dora": [0.64, 0.52, 0.71, 0.9]},
    }
    for task, by_method in scores.items():
        for method, by_seed in by_method.items():
            for seed, score in enumerate(by_seed, 1):
                write_run(tmp_path, method, seed, score, task=task)
    marks, bars, quantiles = in_browser(
        tmp_path,
        """
        await type("seed<=3");
        const [sizes, apart] = all("#figures figure");
        // A panel's numbers at heights: its upward ticks, whose texts stand 3.5 below their lines.
        const inPanel = svg => {
          const ticks = all("text[text-anchor=end]", svg)
            .map(t => [Number(t.textContent.replace("−", "-")), t.getAttribute("y") - 3.5]);
          const [[a, y], [b, z]] = [ticks[0], ticks.at(-1)];
          return all(".interval", svg).map(bar => bar.getAttribute("d").match(/[\\d.]+/g).map(Number))
            .map(d => [d[1], d[3]].map(at => a + ((at - y) * (b - a)) / (z - y)));
        };
        const freedoms = [1, 1.02, 1.5, 2, 3.7, 9, 26, 400];
        return [
          [sizes, apart].map(figure => all("svg[role=img]", figure).map(svg => texts(".mark", svg))),
          all("svg[role=img]", sizes).map(inPanel),
          freedoms.map(df => [df, quantileOf(df)]),
        ];
        """,
    )
    of = {
        (task, method): [100 * score for score in by_seed[:3]]
        for task, by_method in scores.items()
        for method, by_seed in by_method.items()
    }
    more = {
        task: [a - b for a, b in zip(of[task, "dora"], of[task, "lora"], strict=True)]
        for task in scores
    }
    columns = [["sst2"], ["rte"], ["sst2", "rte"]]
    expected = [
        [average([of[task, method] for task in tasks]) for method in ("lora", "dora")]
        for tasks in columns
    ]
    differences = [average([more[task] for task in tasks]) for tasks in columns]
    assert [[_words(text) for text in panel] for panel in marks[0]] == [
        [_numbers(estimate) for estimate in panel] for panel in expected
    ]
    assert [_words(text) for text in marks[1][0]] == [_numbers(d) for d in differences]
    for panel, estimates in zip(bars, expected, strict=True):
        for bar, estimate in zip(panel, estimates, strict=True):
            low, high = estimate.interval()
            # A tenth of a unit of the panel, whose height of 136 units is all numbers.
            assert bar == pytest.approx([low, high], abs=0.003 * (high - low) + 0.1)
    for df, quantile in quantiles:
        assert quantile == pytest.approx(t_quantile(0.975, df), rel=2e-5)


def test_a_difference_that_all_seeds_share_has_no_interval(tmp_path: Path) -> None:
    for seed, right in ((1, 140), (2, 151), (3, 149)):  # of RTE's 277 examples
        write_run(tmp_path, "lora", seed, right / 277, task="rte")
        write_run(tmp_path, "dora", seed, (right + 5) / 277, task="rte")
    marks = in_browser(tmp_path, 'return texts(".mark title", all("#figures figure")[1]);')
    assert marks == ["DoRA (dynamic rank) r8: 1.81"]


def _numbers(estimate: Estimate) -> list[str]:
    """Returns mean and interval in the page's digits."""
    return [f"{number:.2f}" for number in (estimate.mean, *estimate.interval())]


def _words(text: str) -> list[str]:
    """Returns the numbers of a mark's title: `LoRA r8: 85.50 [84.20, 86.80]`."""
    return re.findall(r"-?\d+\.\d\d", text.replace("−", "-"))
