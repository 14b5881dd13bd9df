"""Figures: the numbers they draw, and their files."""

from __future__ import annotations

import csv
import json
from itertools import combinations, pairwise, product
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text

from dora.analysis.figures import files as figures
from dora.analysis.figures.costs import score_by_cost
from dora.analysis.figures.differences import _bands, _heights, paired_differences
from dora.analysis.figures.files import FIGURES, write
from dora.analysis.figures.log_axis import spread
from dora.analysis.figures.points import end_at_100
from dora.analysis.figures.scores import score_by_budget
from dora.analysis.figures.style import (
    COLOURS,
    MARKERS,
    PNG_DPI,
    WIDTHS,
    images,
    legend,
    panels,
    printed,
    styles,
)
from dora.analysis.figures.training import final_ranks, learning_curves, rank_paths
from dora.analysis.grouping import tables
from dora.analysis.page.contrast import contrast
from dora.analysis.page.study_data import study_data
from dora.analysis.table import Table
from dora.backbones.architectures import layer_and_kind
from dora.methods.released import RELEASED
from dora.plain import printable
from dora.records.finished import read_runs
from record_files import names, write_run
from runs import change_record


def only_table(results: Path) -> Table:
    (found,) = tables(read_runs(results))
    return found


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Writes full fine-tuning, and LoRA and DoRA at two budgets, with journals.

    Two tasks, two seeds, two layers.
    """
    modules = names(2)
    for seed in (1, 2):
        for task, base in (("sst2", 0.8), ("rte", 0.6)):
            write_run(tmp_path, "full", seed, base + 0.1, task=task, budget="none")
            for budget, params in (("9000", 9000), ("55296", 55296)):
                write_run(
                    tmp_path,
                    "lora",
                    seed,
                    base + seed / 100,
                    task=task,
                    budget=budget,
                    params=params,
                    ranks=dict.fromkeys(modules, 4),
                )
                # Known ranks for the means below: 0, 1, 2, 3, 4, 0, … and 3 everywhere.
                end = {name: i % 5 if seed == 1 else 3 for i, name in enumerate(modules)}
                path = write_run(
                    tmp_path,
                    "dora",
                    seed,
                    base + 3 * seed / 100,
                    task=task,
                    budget=budget,
                    params=params - 384,
                    ranks=end,
                )
                (path / "ranks.jsonl").write_text(
                    "".join(
                        json.dumps({"step": step, "total": 0, "ranks": ranks}) + "\n"
                        for step, ranks in ((10, dict.fromkeys(modules, 4)), (20, end))
                    )
                )
                (path / "metrics.jsonl").write_text(
                    "".join(
                        json.dumps(
                            {"step": step, "split": "dev", "accuracy": step / 100 + seed / 10}
                        )
                        + "\n"
                        for step in (30, 60)
                    )
                )
    return tmp_path


def lines(
    drawn: tuple[object, list[dict[str, object]]] | None, **which: object
) -> list[dict[str, object]]:
    assert drawn is not None
    return [line for line in drawn[1] if all(line[k] == v for k, v in which.items())]


def test_scores_stand_at_the_parameters_that_were_counted(results: Path) -> None:
    drawn = score_by_budget(only_table(results))
    (line,) = lines(drawn, method="dora", budget="9000", score="SST-2 acc")
    # 9,000 less 384: DoRA stays below its budget, and is drawn where it ended.
    assert (line["adapter_params"], line["mean"]) == (8616, pytest.approx(84.5))
    (line,) = lines(drawn, method="lora", budget="9000", score="average")
    assert line["mean"] == pytest.approx((81.5 + 61.5) / 2)
    # Full fine-tuning has no adapter, and its number is that of what it trains.
    (line,) = lines(drawn, method="full", score="SST-2 acc")
    assert line["adapter_params"] == 900


@pytest.mark.parametrize(
    ("scores", "ends"),
    [((100, 100), (100, 101)), ((90, 99), (99, 100)), ((80, 104), (104, 110)), ((1, 2), (2, 3))],
    ids=["all at 100", "near 100", "an interval beyond 100", "far below"],
)
def test_an_axis_of_scores_ends_at_100_unless_an_interval_lies_beyond(
    scores: tuple[float, float], ends: tuple[float, float]
) -> None:
    _, (panel,) = panels(["SST-2"])
    panel.plot([1, 2], scores)
    end_at_100(panel)
    assert ends[0] < panel.get_ylim()[1] < ends[1]


def test_final_ranks_are_means_over_seeds_of_the_methods_that_change_them(results: Path) -> None:
    drawn = final_ranks(only_table(results))
    # LoRA ends with the ranks that it began with.
    assert {line["method"] for line in lines(drawn)} == {"dora"}
    # The second matrix of layer 0 is k: ranks 1 and 3 of 4.
    (line,) = lines(drawn, task="rte", budget="9000", layer=0, matrix="k")
    assert (line["rank"], line["share"], line["seeds"]) == (2, 0.5, 2)


def test_ranks_that_grow_are_coloured_by_the_largest_whatever_the_number_of_seeds(
    tmp_path: Path,
) -> None:
    first, second = names(1)[:2]
    for method, start in (("xgblora", 0), ("chain", 4)):
        for seed, ends in ((1, (8, 2)), (2, (8, 4)), (3, (8, 6))):
            ranks = dict(zip((first, second), ends, strict=True))
            path = write_run(tmp_path, method, seed, 0.8, ranks=ranks)
            begin = dict.fromkeys(ranks, start)
            change_record(
                path, ranks={**json.loads((path / "run.json").read_text())["ranks"], "start": begin}
            )
    drawn = final_ranks(only_table(tmp_path))
    for method in ("xgblora", "chain"):
        found = {p["matrix"]: (p["rank"], p["share"]) for p in lines(drawn, method=method)}
        assert found == {"q": (8, 1), "k": (4, 0.5)}


def test_every_label_of_the_final_ranks_is_on_the_page_for_one_task_and_few_layers(
    tmp_path: Path,
) -> None:
    write_run(tmp_path, "dora", 1, 0.8, ranks=dict.fromkeys(names(2), 2))
    drawn = final_ranks(only_table(tmp_path))
    assert drawn is not None
    # Both in inches. Such a figure is low, which leaves least room for labels and colour bar.
    box, (width, height) = drawn[0].get_tightbbox(), drawn[0].get_size_inches()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height


def test_in_print_final_ranks_have_a_panel_for_each_cell_that_has_runs(tmp_path: Path) -> None:
    ranks = dict.fromkeys(names(1), 2)
    for method, task in (("dora", "sst2"), ("dora", "rte"), ("adalora", "sst2")):
        write_run(tmp_path, method, 1, 0.8, task=task, ranks=ranks)
    with printed("page"):
        drawn = final_ranks(only_table(tmp_path))
    assert drawn is not None
    heads = [panel.get_title() for panel in drawn[0].axes if panel.get_title()]
    assert [head.split(" (")[0].removesuffix(" r8") for head in heads] == [
        "SST-2, AdaLoRA",
        "SST-2, DoRA",
        "RTE, DoRA",
    ]


def test_a_score_has_room_for_the_methods_that_it_has_which_stand_around_its_middle() -> None:
    found = [("CoLA", m, "r8") for m in ("adalora", "dora", "sora", "nora", "cora")]
    # At another budget there are fewer, in a panel with the same bands.
    found += [("CoLA", "dora", "r2"), ("RTE", "dora", "r8")]
    lines = [{"score": score, "method": method, "budget": at} for score, method, at in found]
    # Five methods 0.08 inches from each other with as much above and below; one has the least.
    bands = _bands(lines, ["CoLA", "RTE"])
    assert bands == pytest.approx({"CoLA": 0.48, "RTE": 0.32})
    shown = ["adalora", "cora", "dora", "nora", "sora"]
    at_r8 = _heights([line for line in lines if line["budget"] == "r8"], bands, shown)
    assert at_r8 == pytest.approx(
        {
            ("CoLA", "adalora"): 0.08,
            ("CoLA", "cora"): 0.16,
            ("CoLA", "dora"): 0.24,
            ("CoLA", "nora"): 0.32,
            ("CoLA", "sora"): 0.40,
            ("RTE", "dora"): 0.64,
        }
    )
    at_r2 = _heights([line for line in lines if line["budget"] == "r2"], bands, shown)
    assert at_r2 == pytest.approx({("CoLA", "dora"): 0.24})


def test_ranks_elsewhere_than_in_linears_are_not_drawn_and_no_damage(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end = {f"some.adapter.{i}": i for i in range(2)}
    for seed, task in product((1, 2), ("sst2", "rte")):
        where = write_run(results, "zeta", seed, 0.7, task=task, budget="55296", ranks=end)
        allocation = {"step": 10, "total": 1, "ranks": end}
        (where / "ranks.jsonl").write_text(json.dumps(allocation) + "\n")
    table = only_table(results)
    assert table.runs_of(("zeta", "55296"))
    for draw in (final_ranks, rank_paths):
        assert {line["method"] for line in lines(draw(table))} == {"dora"}
    curves = [run["curves"] for run in study_data([table])["runs"] if run["method"] == "zeta"]
    assert curves == [{}] * 4
    assert "left out" not in capsys.readouterr().err


def test_rank_paths_and_curves_are_of_the_largest_budget(results: Path) -> None:
    table = only_table(results)
    path = lines(rank_paths(table), task="sst2", method="dora", matrix="q")
    # q is the first and the seventh matrix: 0 and 1 in the first run, 3 and 3 in the second.
    assert [(line["budget"], line["step"], line["rank"]) for line in path] == [
        ("55296", 0, 4),  # as the record has it
        ("55296", 10, 4),
        ("55296", 20, 1.75),
        ("55296", 90, 1.75),  # until the run's end
    ]
    curve = lines(learning_curves(table), task="sst2", method="dora")
    assert [(c["step"], c["mean"], c["lowest"], c["highest"]) for c in curve] == [
        (30, pytest.approx(45), pytest.approx(40), pytest.approx(50)),
        (60, pytest.approx(75), pytest.approx(70), pytest.approx(80)),
    ]


def test_paths_of_ranks_end_where_patience_ended_the_run(results: Path) -> None:
    run = next(results.rglob("sst2/minilm/dora/55296/*/s2"))
    last = json.loads((run / "run.json").read_text())["results"]
    change_record(run, results={**last, "last": {**last["last"], "step": 50}})
    table = only_table(results)
    path = lines(rank_paths(table), task="sst2", method="dora", matrix="q")
    # q is two matrices of each run: 0 and 1 in the first, 3 and 3 in the second, which ended. No
    # rank changes there, and so no mean does.
    assert [(p["step"], p["rank"], p["matrices"]) for p in path][-3:] == [
        (20, 1.75, 4),
        (50, 1.75, 4),
        (90, 1.75, 4),
    ]
    drawn = study_data([table])
    live = [r["curves"]["live"] for r in drawn["runs"] if "live" in r["curves"] and r["seed"] == 2]
    assert 50 in {drawn["steps"][steps][-1] for steps, _ in live}


def test_a_journal_that_is_cut_short_is_drawn_up_to_there(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(results.rglob("sst2/minilm/dora/55296/*/s2/metrics.jsonl"))
    # As a kill leaves it: the last line is not whole.
    path.write_text(path.read_text()[:-20])
    curve = lines(learning_curves(only_table(results)), task="sst2", method="dora")
    assert [(c["step"], c["seeds"]) for c in curve] == [(30, 2), (60, 1)]
    assert f"left out: {path} cannot be read (from a damaged line on" in capsys.readouterr().err


def test_methods_that_nobody_has_heard_of_are_drawn(results: Path) -> None:
    for seed, task in product((1, 2), ("sst2", "rte")):
        bias = write_run(results, "bias", seed, 0.7 + seed / 50, task=task, budget="none")
        said = {"title": "Bias", "paper": None, "budget": "none", "result": "weights"}
        change_record(bias, method=said)
        write_run(results, "zeta", seed, 0.7 + seed / 50, task=task, budget="9000", params=8000)
    table = only_table(results)
    drawn = score_by_budget(table)
    assert drawn is not None
    panel = drawn[0].axes[0]
    # A line across for each method without a budget, at its mean, in a colour of its own.
    across = {line.get_label(): line for line in panel.lines if len(set(line.get_ydata())) == 1}
    assert {name: line.get_ydata()[0] for name, line in across.items() if name[0] != "_"} == {
        "bias": pytest.approx(73),
        "full": pytest.approx(90),
    }
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert sorted(names) == ["Bias", "DoRA (dynamic rank)", "LoRA", "full fine-tuning", "zeta"]
    assert {line["method"] for line in lines(paired_differences(table))} == {"dora", "zeta"}
    assert len(write(table, results / "figures")) == len(FIGURES)


def test_known_methods_keep_their_looks_and_no_two_others_are_alike() -> None:
    others = [f"method{i}" for i in range(200)]
    alone, together = styles(["lora", "zeta"]), styles(["full", "dora", "lora", *others])
    assert alone["lora"] == together["lora"] == {"color": "#0072B2", "marker": "o"}
    assert len({tuple(look.values()) for look in together.values()}) == len(together)
    # Others get colours and markers that no method beside them has, whichever is named first.
    names = ["zeta", "bias", "fedit", "ffa_lora", "lora", "lora_fair", "dora", "full"]
    looks = styles(names)
    assert looks == styles(names[::-1])
    assert len({look["color"] for look in looks.values()}) == len(names)
    assert len({(look["marker"], "markerfacecolor" in look) for look in looks.values()}) == len(
        names
    )


def test_each_of_the_suites_methods_has_a_look_of_its_own() -> None:
    ours = list(RELEASED)
    assert len(COLOURS) == len(MARKERS) >= len(ours)
    together = styles(ours)
    assert len({look["color"] for look in together.values()}) == len(ours)
    for name in ours:
        assert styles([name, "zeta"])[name] == together[name]


def test_colours_are_told_apart_by_colour_blind_readers() -> None:
    count = len(COLOURS)
    assert min(contrast(colour, "#ffffff") for colour in COLOURS) >= 2.2
    # What a reader without one kind of cones sees of linear RGB (Machado et al. 2009, severity 1).
    seen_by = {
        "all cones": np.eye(3),
        "no red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        "no green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        "no blue": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    }
    to_xyz = np.array([[0.434, 0.376, 0.190], [0.213, 0.715, 0.072], [0.018, 0.109, 0.873]])
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for reader, cones in seen_by.items():
        xyz = np.clip(linear @ np.array(cones).T, 0, 1) @ to_xyz.T  # relative to white
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        # CIELAB, in which a distance of about 2 can just be seen.
        lab = np.stack(
            [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
        )
        apart = np.linalg.norm(lab[:, None] - lab, axis=-1)[np.triu_indices(count, 1)]
        assert apart.min() > 15, reader


def test_a_legend_of_unequal_columns_leaves_no_gap_above_the_panels() -> None:
    figure, axes = panels(["head"])
    for i, letters in enumerate([19, *[8] * 7, 17, *[8] * 6]):
        axes[0].plot([0], [0], label=chr(97 + i) * letters)
    legend(figure, axes)
    FigureCanvasAgg(figure).draw()
    bottom = figure.legends[0].get_window_extent().y0
    assert 0 < (bottom - axes[0].title.get_window_extent().y1) / figure.dpi < 0.3  # inches


@pytest.mark.parametrize("points", [3, 4])
def test_markers_differ_in_grey_at_the_sizes_of_figures(points: int) -> None:
    count = len(MARKERS)
    figure = Figure(figsize=(count / 8, 0.125), dpi=PNG_DPI)
    panel = figure.add_axes((0, 0, 1, 1), xlim=(-0.5, count - 0.5), ylim=(-0.5, 0.5))
    panel.set_axis_off()
    for i, marker in enumerate(MARKERS):
        panel.plot(i, 0, color="black", markersize=points, **marker)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    ink = 1 - np.asarray(canvas.buffer_rgba())[..., 0] / 255
    drawn = np.split(ink, count, axis=1)
    # As a share of the smaller one's ink; hexagon and circle have 0.12.
    least = min(abs(a - b).sum() / min(a.sum(), b.sum()) for a, b in combinations(drawn, 2))
    assert least > 0.2


def test_differences_are_drawn_with_their_average(results: Path) -> None:
    drawn = paired_differences(only_table(results))
    assert {line["score"] for line in lines(drawn)} == {"SST-2 acc", "RTE acc", "average"}
    (line,) = lines(drawn, budget="9000", score="average")
    assert line["mean"] == pytest.approx(3.0)


def test_the_legend_of_the_differences_names_no_method_without_a_mark(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        for method in ("lora", "dora"):
            write_run(tmp_path, method, seed, 0.8 + seed / 100)
    write_run(tmp_path, "adalora", 1, 0.9)  # one pair has no spread, and no difference
    drawn = paired_differences(only_table(tmp_path))
    assert drawn is not None
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["DoRA (dynamic rank)"]


def test_every_figure_is_written_with_its_numbers(results: Path) -> None:
    folder = results / "figures"
    found = write(only_table(results), folder)
    assert found == [f"dir-minilm-best-{name}" for name in FIGURES]
    for name in found:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert b"<svg" in (folder / f"{name}.svg").read_bytes()
        with (folder / f"{name}.csv").open() as file:
            assert list(csv.DictReader(file))


def test_the_same_numbers_give_the_same_bytes(results: Path) -> None:
    one, two = (paired_differences(only_table(results)) for _ in range(2))
    assert one is not None
    assert two is not None
    assert images(one[0]) == images(two[0])


def test_a_study_that_has_only_begun_is_drawn(results: Path) -> None:
    # CoLA has no adapter yet, MRPC a single run on a single matrix.
    write_run(results, "full", 1, 0.5, task="cola", budget="none")
    write_run(
        results, "adalora", 1, 0.5, task="mrpc", budget="9000", params=9000, ranks={names(1)[0]: 2}
    )
    found = write(only_table(results), results / "figures")
    # No method has every task yet, so that there is no average to set against costs.
    assert len(found) == len(FIGURES) - 1


def test_what_there_is_nothing_for_is_not_drawn(tmp_path: Path) -> None:
    write_run(tmp_path, "full", 1, 0.9, budget="none")
    table = only_table(tmp_path)
    assert [name for name, kind in FIGURES.items() if kind.draw(table) is not None] == []
    assert write(table, tmp_path / "figures") == []


def test_a_matrix_has_its_place_by_its_whole_name() -> None:
    assert layer_and_kind("roberta.encoder.layer.11.attention.output.dense") == (11, "o")
    assert layer_and_kind("deberta.encoder.layer.1.output.dense") == (1, "ffn2")
    assert layer_and_kind("deberta.encoder.layer.0.attention.self.query_proj") == (0, "q")
    with pytest.raises(ValueError, match="is no linear of an encoder layer"):
        layer_and_kind("classifier.dense")


@pytest.mark.parametrize("name", [r"a$\foo$", "$", "a\x1b[2J", "a\u202eb", "_x", "x^2_y"])
def test_a_name_is_no_formula_in_a_figure(name: str, tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    write_run(tmp_path, name, 1, 0.9)
    drawn = score_by_budget(only_table(tmp_path))
    assert drawn is not None
    assert images(drawn[0])["png"].startswith(b"\x89PNG")
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == [
        "LoRA",
        *([printable(name)] if name != "_x" else []),
    ]  # Matplotlib leaves such a label out


def test_the_names_of_many_methods_stand_in_rows_inside_the_figure_and_above_the_panels(
    tmp_path: Path,
) -> None:
    methods = ["lora", "sora", "melora", "lora_pro", "flat_lora", "houlsby", "pfeiffer", "adalora"]
    for method in methods:
        for seed in (1, 2):
            write_run(tmp_path, method, seed, 0.8 + seed / 100)
    drawn = paired_differences(only_table(tmp_path))
    assert drawn is not None
    figure = drawn[0]
    images(figure)  # lays the legend out
    (legend,), canvas = figure.legends, figure.bbox
    assert len(legend.get_texts()) == 7
    box = legend.get_window_extent()
    assert canvas.x0 <= box.x0 < box.x1 <= canvas.x1
    for panel in figure.axes:
        assert panel.title.get_window_extent().y1 <= box.y0 + 1  # pixel


def test_parts_of_a_figure_hold_the_numbers_of_the_whole_its_average_included(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Points more than LoRA with each of three seeds, clear enough that p values are less than 1.
    more = {
        ("lora", "sst2"): (0, 0, 0),
        ("dora", "sst2"): (3, 3.2, 3.5),
        ("adalora", "sst2"): (1, 2, 1.5),
        ("lora", "rte"): (0, 0, 0),
        ("dora", "rte"): (-2, -2.5, -2.1),
        ("adalora", "rte"): (4, 4.1, 4.5),
    }
    for (method, task), points in more.items():
        for seed, point in enumerate(points, 1):
            write_run(results / "three", method, seed, 0.8 + point / 100, task=task)
    table = only_table(results / "three")
    names = ("score-by-budget", "differences")
    monkeypatch.setattr(figures, "FIGURES", {name: FIGURES[name] for name in names})
    monkeypatch.setattr(figures, "_HIGHEST", 0.5)
    monkeypatch.setattr(figures, "images", lambda *_: {})  # the numbers alone: images take seconds

    def drawn(width: str | None) -> dict[str, list[dict[str, str]]]:
        """Draws the figures; returns the lines of each one's CSV."""
        folder = results / str(width)
        return {
            name: list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))
            for name in write(table, folder, width)
        }

    whole, parts = drawn(None), drawn("column")
    begin = f"{table.name}-"
    ends = ("sst2", "rte", "average")
    assert list(parts) == [f"{begin}{name}-{end}" for name in names for end in ends]
    assert len({line["p_holm"] for line in whole[f"{begin}differences"]}) > 2
    for name in names:
        held = [line for end in ends for line in parts[f"{begin}{name}-{end}"]]
        assert sorted(map(str, held)) == sorted(map(str, whole[f"{begin}{name}"]))
        assert {p["score"] for p in parts[f"{begin}{name}-average"]} == {"average"}


@pytest.mark.slow
def test_a_figure_for_print_that_is_higher_than_a_page_is_one_for_each_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "FIGURES", {"final-ranks": FIGURES["final-ranks"]})
    modules = names(6)
    for task, method in product(("sst2", "rte", "cola", "mrpc"), ("adalora", "dora")):
        end = {name: i % 5 for i, name in enumerate(modules)}
        write_run(tmp_path, method, 1, 0.8, task=task, ranks=end)
    table = only_table(tmp_path)
    folder = tmp_path / "figures"
    whole = f"{table.name}-final-ranks"
    assert write(table, folder, "page") == [whole]  # four panels in a row
    parts = write(table, folder, "column")
    assert parts == [f"{whole}-{task}" for task in ("cola", "sst2", "mrpc", "rte")]
    with (folder / f"{whole}-rte.csv").open() as file:
        assert {line["task"] for line in csv.DictReader(file)} == {"rte"}


def test_marks_of_one_size_stand_side_by_side_and_labels_do_not_touch(tmp_path: Path) -> None:
    sizes = {"lora": 9000, "dora": 8990, "adalora": 8980, "sora": 7000, "melora": 60_000}
    for method, params in sizes.items():
        write_run(tmp_path, method, 1, 0.8, params=params)
    with printed("column"):
        drawn = score_by_cost(only_table(tmp_path))
    assert drawn is not None
    figure, panel = drawn[0], drawn[0].axes[0]
    images(figure)
    bars = [c for c in panel.containers if isinstance(c, ErrorbarContainer)]
    marks = [bar.lines[0].get_xdata()[0] for bar in bars]
    across = sorted(panel.transData.transform((x, 0))[0] / figure.dpi for x in marks)
    assert len(across) == len(sizes)
    assert min(b - a for a, b in pairwise(across)) > 0.05  # inches, a marker
    boxes = sorted(
        (t.get_window_extent().x0, t.get_window_extent().x1) for t in panel.get_xticklabels()
    )
    assert len(boxes) > 1
    assert all(end < start for (_, end), (start, _) in pairwise(boxes))


def test_marks_keep_their_order_and_are_hardly_moved() -> None:
    _, (panel,) = panels(["costs"], width=2.6)
    panel.set_xscale("log")
    panel.set_xlim(1e4, 1e8)
    # One of 0.26M beside twelve of 0.33M: spread alone, they would have stood on both of its sides.
    costs = [26_000, 262_656, *(331_000 + 50 * i for i in range(12)), 22_700_000]
    drawn = spread(panel, costs)
    assert drawn == sorted(drawn)
    assert (drawn[0], drawn[-1]) == (pytest.approx(26_000), pytest.approx(22_700_000))
    inches = np.log10(drawn) * 2.6 / 4
    assert np.abs(inches - np.log10(costs) * 2.6 / 4).max() <= 2.6 / 8
    assert np.diff(inches).min() > 0.04
    # Equal ones have the order given, so that methods stand alike at every budget.
    first, second = spread(panel, [331_776, 331_000])
    assert first < second
    assert spread(panel, []) == []


def test_a_row_is_on_the_front_if_no_cheaper_one_scores_as_much(tmp_path: Path) -> None:
    for method, budget, params, score, seconds in [
        ("lora", "9000", 9000, 0.70, 50.0),
        ("lora", "55296", 55296, 0.80, 20.0),
        ("dora", "9000", 8900, 0.75, 30.0),
        ("dora", "55296", 55000, 0.79, 10.0),
    ]:
        path = write_run(tmp_path, method, 1, score, budget=budget, params=params) / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "train_s": seconds}))
    drawn = score_by_cost(only_table(tmp_path))
    on_front = {
        cost: {(p["method"], p["budget"]) for p in lines(drawn, cost=cost, on_front=True)}
        for cost in ("adapter parameters", "seconds of training")
    }
    assert on_front == {
        "adapter parameters": {("lora", "55296"), ("dora", "9000"), ("dora", "55296")},
        "seconds of training": {("lora", "55296"), ("dora", "55296")},
    }
    (line,) = lines(drawn, cost="seconds of training", method="dora", budget="9000")
    assert (line["value"], line["mean"]) == (30, pytest.approx(75))


def test_a_dearer_row_of_equal_mean_is_not_on_the_front(tmp_path: Path) -> None:
    # Equal sums of right answers, of RTE's 277, whose means differ in their last bits.
    for method, params, right in (("lora", 900, (140, 205, 144)), ("dora", 950, (141, 204, 144))):
        for seed, number in enumerate(right, 1):
            write_run(tmp_path, method, seed, number / 277, task="rte", params=params)
    drawn = score_by_cost(only_table(tmp_path))
    cheap, dear = lines(drawn, cost="adapter parameters")
    assert (cheap["method"], dear["method"]) == ("lora", "dora")
    assert dear["mean"] > cheap["mean"]
    assert (cheap["on_front"], dear["on_front"]) == (True, False)


def test_marks_of_many_budgets_are_larger_and_still_small(tmp_path: Path) -> None:
    for rank in range(1, 21):
        write_run(tmp_path, "lora", 1, 0.8, budget=f"r{rank}", params=900 * rank)
    drawn = score_by_cost(only_table(tmp_path))
    assert drawn is not None
    sizes = [line.get_markersize() for line in drawn[0].axes[0].lines if line.get_marker() == "o"]
    assert len(sizes) == 20
    assert sizes == sorted(set(sizes))
    assert sizes[-1] < 10


def test_a_cost_that_no_row_has_is_no_panel(tmp_path: Path) -> None:
    for i, budget in enumerate(("9000", "55296")):
        write_run(tmp_path, "sora", 1, 0.8 + i / 10, budget=budget, params=0)
    drawn = score_by_cost(only_table(tmp_path))
    assert drawn is not None
    assert [panel.get_title() for panel in drawn[0].axes] == ["seconds of training"]
    assert [line["mean"] for line in lines(drawn)] == [pytest.approx(80), pytest.approx(90)]
    for folder in tmp_path.rglob("s1"):
        change_record(folder, train_s=0.0)
    assert score_by_cost(only_table(tmp_path)) is None


def test_costs_are_means_over_tasks_as_scores_are_whatever_their_numbers_of_seeds(
    tmp_path: Path,
) -> None:
    seconds, sizes = {"sst2": 10.0, "rte": 1000.0}, {"sst2": 100, "rte": 300}
    seeds = {("lora", "sst2"): 3, ("lora", "rte"): 1, ("dora", "sst2"): 1, ("dora", "rte"): 3}
    for (method, task), number in seeds.items():
        for seed in range(1, number + 1):
            about = {"task": task, "params": sizes[task], "train_s": seconds[task]}
            write_run(tmp_path, method, seed, 0.8, **about)
    table = only_table(tmp_path)
    costs = lines(score_by_cost(table), cost="seconds of training")
    assert {line["method"]: line["value"] for line in costs} == {"lora": 505, "dora": 505}
    stored = lines(score_by_cost(table), cost="adapter parameters")
    assert {line["value"] for line in stored} == {200}
    averages = lines(score_by_budget(table), score="average")
    assert {line["method"]: line["adapter_params"] for line in averages} == {
        "lora": 200,
        "dora": 200,
    }


@pytest.mark.parametrize("width", WIDTHS)
def test_figures_for_print_have_its_width_and_letters_of_six_points(
    width: str, results: Path
) -> None:
    table = only_table(results)
    for name, kind in FIGURES.items():
        with printed(width):
            drawn = kind.draw(table)
        assert drawn is not None, name
        figure = drawn[0]
        files = images(figure)
        assert figure.get_figwidth() == pytest.approx(WIDTHS[width])
        assert b"/Type3" not in files["pdf"], name
        assert figure.get_figheight() < 10, name
        box = figure.get_tightbbox()
        # Nothing is cut off, letters included.
        assert box.x0 > -0.05, name
        assert box.x1 < WIDTHS[width] + 0.05, name
        texts = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
        assert min(t.get_fontsize() for t in texts) >= 6, name
