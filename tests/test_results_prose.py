"""Sentences and typed tables on the pages of results: their numbers are those of the records.

Computed with SciPy and statsmodels from each run's score, apart from `dora.analysis`.
"""

from __future__ import annotations

import functools
import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.stats
from statsmodels.stats.multitest import multipletests

from dora.records.finished import read_runs

RESULTS = Path(__file__).parents[1] / "results"
METRICS = {"cola": "matthews_correlation", "stsb": "pearson"}  # of all other tasks: accuracy
PRUNING = ("adalora", "dora")
THREE = ("cola", "sst2", "stsb")
# The comparisons of the pages' first table: (folder, model, steps, tasks).
COMPARED = (
    ("study_base", "minilm", 600, ("cola", "sst2", "mrpc")),
    ("study_base", "mpnet_base", 600, ("cola", "sst2")),
    ("study_length", "tiny_roberta", 600, THREE),
    ("study_length", "tiny_roberta", 1800, THREE),
    ("study_length", "tiny_roberta", 5400, ("cola", "sst2")),
)
Found = tuple[float, float, float, float]  # a mean, its 95 % interval, the p value against 0


@functools.cache
def scores(folder: str) -> dict[tuple[str, int, str, str], dict[int, float]]:
    """Returns the points of each seed by (model, steps, task, method)."""
    found: dict[tuple[str, int, str, str], dict[int, float]] = defaultdict(dict)
    for run in read_runs(RESULTS / folder):
        c = run["config"]
        points = 100 * run["results"]["best"][METRICS.get(c["task"], "accuracy")]
        key = c["model"], run["total_steps"], c["task"], c["method"]["name"]
        found[key][run["seed"]] = points
    return found


def tiny(steps: int, task: str, method: str, folder: str = "study_length") -> dict[int, float]:
    return scores(folder)["tiny_roberta", steps, task, method]


def less(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Returns the differences of the seeds that both have."""
    return [ours[seed] - theirs[seed] for seed in sorted(ours) if seed in theirs]


def against_zero(differences: Sequence[float]) -> Found:
    test = scipy.stats.ttest_1samp(differences, 0)
    low, high = test.confidence_interval()
    return statistics.fmean(differences), float(low), float(high), float(test.pvalue)


def averaged(groups: Sequence[Sequence[float]]) -> Found:
    """Returns the mean over tasks with Welch's interval: each task has a variance of its own."""
    v = np.array([np.var(group, ddof=1) / len(group) for group in groups])
    df = v.sum() ** 2 / (v**2 / [len(group) - 1 for group in groups]).sum()
    mean = statistics.fmean(map(statistics.fmean, groups))
    error = float(np.sqrt(v.sum())) / len(groups)
    low, high = scipy.stats.t.interval(0.95, df, mean, error)
    return mean, float(low), float(high), float(2 * scipy.stats.t.sf(abs(mean) / error, df))


def by_seed(groups: Sequence[Sequence[float]]) -> float:
    """Returns the p value of the seeds' averages over tasks, which may depend on each other."""
    return against_zero([statistics.fmean(of_seed) for of_seed in zip(*groups, strict=True)])[3]


def shown(found: Found) -> str:
    mean, low, high, _ = found
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def holm(p_values: Sequence[float]) -> list[float]:
    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def said(page: str, *sentences: str) -> None:
    """Checks that a page has these sentences, wherever its lines end."""
    text = " ".join((RESULTS / page).read_text().split())
    assert [each for each in sentences if each not in text] == []


def lead(steps: int, task: str, method: str) -> list[float]:
    return less(tiny(steps, task, method), tiny(steps, task, "lora"))


def test_what_remains_of_all_comparisons_of_the_first_table_together() -> None:
    tasks_p, average_p, seeds_p = [], [], []
    for folder, model, steps, tasks in COMPARED:
        found = scores(folder)
        for method in PRUNING:
            groups = [
                less(found[model, steps, task, method], found[model, steps, task, "lora"])
                for task in tasks
            ]
            tasks_p += [against_zero(group)[3] for group in groups]
            if len(tasks) > 1:
                average_p.append(averaged(groups)[3])
                seeds_p.append(by_seed(groups))
    independent, dependent = holm(average_p + tasks_p), holm(seeds_p + tasks_p)
    remain = [p for p in independent if p < 0.05]
    # The averages of tiny_roberta at 600 steps are the third pair.
    assert remain == independent[4:6]
    assert min(dependent) >= 0.05
    said(
        "README.md",
        f"Corrected for all {len(independent)} comparisons of this table, only LoRA's two averages at "
        f"600 steps remain (p {remain[0]:.2f} and {remain[1]:.2f})",
        f"(p {seeds_p[4]:.3f} and {seeds_p[5]:.3f} by themselves), none of the {len(dependent)} "
        "remains",
    )


def test_what_changes_with_the_length_and_on_which_rates_it_depends() -> None:
    def change(task: str, method: str, better: dict[int, float] | None = None) -> list[float]:
        """Returns the change from 600 to 1,800 steps, there beside `better` in place of LoRA."""
        later = less(tiny(1800, task, method), better or tiny(1800, task, "lora"))
        return [b - a for a, b in zip(lead(600, task, method), later, strict=True)]

    changes = {method: [change(task, method) for task in THREE] for method in PRUNING}
    found = averaged(changes["dora"])
    _, corrected = holm([averaged(groups)[3] for groups in changes.values()])
    better = tiny(1800, "stsb", "lora", "study_length/rates/stsb")
    beside = averaged([*changes["dora"][:2], change("stsb", "dora", better)])
    longest = [
        b - a for a, b in zip(lead(1800, "cola", "dora"), lead(5400, "cola", "dora"), strict=True)
    ]
    once = [tiny(1800, "cola", name, "study_length/rates/cola") for name in ("dora", "lora")]
    other = [b - a for a, b in zip(less(*once), lead(5400, "cola", "dora"), strict=True)]
    said(
        "README.md",
        f"DoRA less LoRA changes by {shown(found)} points on average (p {corrected:.2f} corrected, "
        f"{by_seed(changes['dora']):.3f} by a test of the seeds' averages), but by {shown(beside)} "
        "beside a better rate for LoRA on STS-B",
        f"{shown(against_zero(longest))}, p {against_zero(longest)[3]:.3f} by itself",
        f"with the rates that one search seed had chosen at 1,800 steps it is {shown(against_zero(other))}",
    )


def test_what_one_seed_of_a_search_decides_is_what_both_choices_score() -> None:
    names = {"LoRA": "lora", "AdaLoRA": "adalora", "DoRA": "dora"}
    tasks = {"STS-B": "stsb", "CoLA": "cola", "SST-2": "sst2"}
    text = (RESULTS / "study_length.md").read_text()
    lines = re.findall(
        r"^\| (\S+), (\w+) \| [^|]+ \| (\S+) \| [^|]+ \| (\S+) \| (.*?) ?\|$", text, re.M
    )
    assert len(lines) == 9
    moved = []
    for task_title, title, first, second, change in lines:
        task, method = tasks[task_title], names[title]
        chosen = tiny(1800, task, method)
        # The folder has another rate of LoRA's on STS-B too, which no search chose.
        kept = {} if change == "" else tiny(1800, task, method, f"study_length/rates/{task}")
        before = kept or chosen
        assert first == f"{statistics.fmean(before.values()):.1f}"
        assert second == f"{statistics.fmean(chosen.values()):.1f}"
        if kept:
            assert change == shown(against_zero(less(chosen, kept)))
            moved.append(statistics.fmean(less(chosen, kept)))
    for method in ("lora", "dora"):
        kept = tiny(5400, "cola", method, "study_length/rates/cola")
        moved.append(statistics.fmean(less(tiny(5400, "cola", method), kept)))
    assert len(moved) == 8
    average = statistics.fmean(moved)
    assert average < 0
    said("study_length.md", f"the second ones score {-average:.1f} points less on average")


def test_what_dropout_does_at_the_longest_runs() -> None:
    """The typed table, and the sentences on it: two methods with and without dropout."""
    text = (RESULTS / "study_length.md").read_text()
    leads, gains = {}, {}
    for title, task in (("SST-2 acc", "sst2"), ("CoLA Mcc", "cola")):
        folder = f"study_length/variants/{task}_longest"
        bare = {"lora": tiny(5400, task, "lora"), "dora": tiny(5400, task, "dora", folder)}
        dropped = {"lora": tiny(5400, task, "lora", folder), "dora": tiny(5400, task, "dora")}
        gains[task] = {name: less(dropped[name], bare[name]) for name in bare}
        for method, name in (("LoRA", "lora"), ("DoRA", "dora")):
            means = (statistics.fmean(by.values()) for by in (bare[name], dropped[name]))
            cells = (*(f"{mean:.1f}" for mean in means), shown(against_zero(gains[task][name])))
            assert f"| {title} | {method} | {' | '.join(cells)} |" in text
        leads[task] = [against_zero(less(by["dora"], by["lora"])) for by in (bare, dropped)]
        assert f"| {title} | DoRA − LoRA | {' | '.join(map(shown, leads[task]))} | |" in text
        # "at equal dropout no difference is shown on either task"
        assert min(found[3] for found in leads[task]) > 0.05
    both = against_zero(
        [statistics.fmean(pair) for pair in zip(*gains["sst2"].values(), strict=True)]
    )
    said(
        "study_length.md",
        f"dropout gains {shown(both)[1:]} points on average over both methods (p {both[3]:.3f})",
        f"DoRA that may gain by it (p {against_zero(gains['cola']['dora'])[3]:.2f} by itself): "
        f"without dropout it is behind LoRA, by {-leads['cola'][0][0]:.1f} points",
    )
    studied, cola = (against_zero(lead(5400, task, "dora")) for task in ("sst2", "cola"))
    less_dora = tuple(-value for value in leads["sst2"][1][:3])
    behind = shown((less_dora[0], less_dora[2], less_dora[1], 0.0))
    said(
        "README.md",
        f"on SST-2 DoRA is {studied[0]:.1f} points ahead (p {studied[3]:.3f} by itself",
        f"LoRA with the same dropout scores {behind[1:]} points more than DoRA, and without "
        f"dropout DoRA is {leads['sst2'][0][0]:.1f} ahead",
        f"On CoLA DoRA is {cola[0]:.1f} points ahead and AdaLoRA",
        f"without dropout DoRA is {-leads['cola'][0][0]:.1f} behind",
        f"dropout is worth {shown(both)[1:]} points to LoRA and DoRA",
    )


def test_what_sst2_gains_from_1800_to_5400_steps() -> None:
    gains = {
        name: against_zero(less(tiny(5400, "sst2", name), tiny(1800, "sst2", name)))
        for name in ("dora", "adalora", "lora")
    }
    own = {name: shown(found).removeprefix("+") for name, found in gains.items()}
    before, after = lead(1800, "sst2", "dora"), lead(5400, "sst2", "dora")
    change = against_zero([b - a for a, b in zip(before, after, strict=True)])
    full = against_zero(less(tiny(5400, "sst2", "full"), tiny(5400, "sst2", "lora")))
    said(
        "study_length.md",
        f"On SST-2 DoRA gains {own['dora']} points, AdaLoRA {own['adalora']} and LoRA {own['lora']}; "
        f"DoRA less LoRA changes by {change[0]:.1f} points (p {change[3]:.2f} by itself). There full "
        f"fine-tuning is {shown(full).removeprefix('+')} points ahead of LoRA",
    )
    said("README.md", f"On SST-2 it changes by {shown(change)} in these steps")


def test_runs_that_answer_with_one_class_are_counted() -> None:
    runs = [run for run in read_runs(RESULTS / "study_length") if run["config"]["task"] == "cola"]
    alike = [
        (run["total_steps"], run["config"]["method"]["name"])
        for run in runs
        if run["results"]["best"]["degenerate"]
    ]
    assert sorted(alike) == [(600, "adalora")] * 4 + [(600, "dora")] * 4
    said(
        "study_length.md",
        "at 600 steps, four of five runs of AdaLoRA and four of DoRA answer with a single class; at "
        "1,800 none does",
    )


def test_doras_lead_on_minilms_cola_and_loras_distance_to_full_fine_tuning() -> None:
    found = {key[2:]: by for key, by in scores("study_base").items() if key[0] == "minilm"}
    p: dict[str, dict[tuple[str, str], float]] = {"lora": {}, "full": {}}
    for task, method in found:
        # Methods without a budget are compared with none.
        for baseline in {"lora", "full"} - {method} if method not in ("full", "bitfit") else ():
            p[baseline][task, method] = against_zero(
                less(found[task, method], found[task, baseline])
            )[3]
    corrected = {
        name: dict(zip(its, holm(list(its.values())), strict=True)) for name, its in p.items()
    }
    mean, low, high, alone = against_zero(less(found["cola", "full"], found["cola", "lora"]))
    said(
        "study_base.md",
        f"p {p['lora']['cola', 'dora']:.2f} by itself, 0.20 corrected for the six comparisons of these "
        f"two methods, and {corrected['lora']['cola', 'dora']:.2f} corrected for all "
        f"{len(p['lora'])} of the table",
        f"LoRA is {mean:.1f} [{low:.1f}, {high:.1f}] points behind on MiniLM's CoLA: p {alone:.3f} by "
        f"itself, and {corrected['full']['cola', 'lora']:.3f} corrected for all {len(p['full'])} "
        "comparisons of its table",
    )


def test_distances_to_full_fine_tuning_that_no_table_shows() -> None:
    found = scores("study_base")

    def distance(model: str, task: str, method: str, sign: int = 1) -> Found:
        """Returns full fine-tuning less a method; with `sign` -1 the method less it."""
        full = found[model, 600, task, "full"]
        return against_zero([sign * d for d in less(full, found[model, 600, task, method])])

    def plain(found: Found) -> str:
        return shown(found).replace("+", "")

    learn = ("adalora", "dora", "sora", "melora", "flat_lora", "houlsby", "chain")
    behind = [distance("minilm", "cola", name)[0] for name in (*learn, "weight_decomposed")]
    said(
        "study_base.md",
        f"methods that learn there are {min(behind):.1f} to {max(behind):.1f} points behind",
        f"On SST-2 LoRA is {plain(distance('minilm', 'sst2', 'lora'))} behind, on MRPC "
        f"{plain(distance('minilm', 'mrpc', 'lora', -1))} ahead",
        f"ahead on CoLA by {plain(distance('mpnet_base', 'cola', 'lora', -1))} and on SST-2 by "
        f"{plain(distance('mpnet_base', 'sst2', 'lora', -1))}",
    )


def test_the_losses_of_federated_runs_are_told_apart_by_their_settings() -> None:
    federated = ("fedit", "ffa_lora", "lora_fair")
    seeds = (1, 2, 3)

    def of(folder: str, steps: int, *methods: str) -> list[list[float]]:
        """Returns the mean of the methods for each seed, a group for each task."""
        found = scores(folder)
        return [
            [
                statistics.fmean(found["minilm", steps, task, m][seed] for m in methods)
                for seed in seeds
            ]
            for task in ("mrpc", "rte")
        ]

    rows = [
        of("study_federated", 240, "lora"),
        of("study_federated/depth", 80, "lora"),
        of("study_federated/iid", 240, *federated),
        of("study_federated", 240, *federated),
    ]

    def loss(above: int, below: int) -> Found:
        pairs = zip(rows[above], rows[below], strict=True)
        return averaged([[a - b for a, b in zip(*pair, strict=True)] for pair in pairs])

    depth, parts, skew = (loss(i, i + 1) for i in range(3))
    said(
        "study_federated.md",
        f"the three methods lose {loss(0, 3)[0]:.1f} points to LoRA",
        f"loses {depth[0]:.1f} [{depth[1]:.1f}, {depth[2]:.1f}] by itself",
        f"they lose {parts[0]:.1f} [{parts[1]:.1f}, {parts[2]:.1f}] more (p {parts[3]:.2f})",
        f"another {skew[0]:.1f} [{skew[1]:.1f}, {skew[2]:.1f}] (p {skew[3]:.2f} by itself",
    )


def test_means_and_gaps_that_no_table_beside_them_shows() -> None:
    own = [statistics.fmean(tiny(1800, task, "dora").values()) for task in ("sst2", "stsb")]
    said("study_length.md", f"score {own[0]:.1f} on SST-2 and {own[1]:.1f} on STS-B")
    gaps = [
        100 * (1 - run["params"]["adapter_end"] / int(run["config"]["budget"]))
        for run in read_runs(RESULTS / "study_methods")
        if run["config"]["method"]["name"] == "sora"
    ]
    said("study_methods.md", f"ended {min(gaps):.0f} to {max(gaps):.0f} % below the budget")
    lora = [
        at["bf16"] - at["fp32"]
        for at in _by_precision("lora").values()
        if abs(at["bf16"] - at["fp32"]) < 5
    ]
    said("precision.md", f"The other thirteen pairs differ by {max(map(abs, lora)):.1f} points")
    assert len(lora) == 13


def _by_precision(method: str) -> dict[tuple[str, int], dict[str, float]]:
    """Returns the last score in points of each (task, seed) by precision."""
    found: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for run in read_runs(RESULTS / "precision"):
        c = run["config"]
        if c["method"]["name"] == method:
            score = run["results"]["last"][METRICS.get(c["task"], "accuracy")]
            found[c["task"], c["seed"]][c["precision"]] = 100 * score
    return found
