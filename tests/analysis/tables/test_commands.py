"""The commands over finished runs: their messages, exit codes, and the names of their files."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from dora import report, tables
from dora.analysis import comparison, studies
from dora.analysis.grouping import showable
from dora.analysis.tables.files import files
from dora.analysis.tables.scores import scores
from dora.analysis.view import View
from dora.cli.options import add_arguments, found_tables
from dora.records import run_json
from dora.records.finished import read_runs
from record_files import write_budgets_that_look_alike, write_run
from runs import change_record, command, in_process


def test_the_commands_that_fill_the_holes_are_in_the_report(tmp_path: Path) -> None:
    for task in ("rte", "sst2"):
        write_run(tmp_path, "lora", 1, 0.8, task=task)
    write_run(tmp_path, "dora", 1, 0.8)
    done = command("dora.tables", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "### missing runs: 1" in done.stdout
    assert (
        "    python -m dora.run method=dora budget=r8 model=minilm task=rte seed=1" in done.stdout
    )
    # One seed has no differences, and no file of them is named.
    assert done.stdout.splitlines()[-1] == (
        f"written to {tmp_path / 'tables'}: dir-minilm-best as .md, .csv, -runs.csv, and 3 .tex"
    )
    assert len(list((tmp_path / "tables").iterdir())) == 6
    # The Markdown that is written is also what is printed.
    assert done.stdout.startswith((tmp_path / "tables" / "dir-minilm-best.md").read_text()[:200])


def test_runs_that_diverged_are_named_beside_the_means_of_the_others(tmp_path: Path) -> None:
    def notes(*words: str) -> list[str]:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        given = parser.parse_args(["--results", str(tmp_path), *words])
        (table,) = found_tables(given).tables
        return [text for text in scores(table).notes if text.startswith("diverged")]

    for seed in (1, 2, 3):
        write_run(tmp_path, "lora", seed, 0.8)
    write_run(tmp_path, "dora", 1, 0.8)
    assert notes() == []
    # The last is of another rate, which the cell does not show.
    for method, seed, key in (
        ("dora", 3, "abcd1234"),
        ("dora", 2, "abcd1234"),
        ("lora", 3, "ffff"),
    ):
        folder = write_run(tmp_path, method, seed, 0.8, key=key)
        change_record(folder, "results", status="diverged", reason="diverged at step 3")
    for task in ("rte", "sst2"):
        folder = write_run(tmp_path, "bitfit", 1, 0.8, task, budget="none")
        change_record(folder, "results", status="diverged", reason="diverged at step 3")
    assert notes() == [
        "diverged runs, left out of every number: BitFit on SST-2 (seed 1); BitFit on RTE (seed 1); "
        "DoRA (dynamic rank) r8 on SST-2 (seeds 2, 3)"
    ]
    assert notes("--methods", "lora,dora", "--tasks", "sst2") == [
        "diverged runs, left out of every number: DoRA (dynamic rank) r8 on SST-2 (seeds 2, 3)"
    ]
    assert notes("--where", "seed=1") == []
    named = "diverged runs, left out of every number: DoRA (dynamic rank) r8 on SST-2 (seeds 2, 3)"
    assert notes("--where", "data=dir") == [named]
    assert notes("--where", "seed=1", "seed=3") == [named.replace("seeds 2, 3", "seed 3")]


def test_budgets_that_look_alike_are_told_apart(tmp_path: Path) -> None:
    write_budgets_that_look_alike(tmp_path)
    (table,) = showable(read_runs(tmp_path), View())[0]
    note = "0.332M stands for budgets of 331776 and of 332000, not compared with each other"
    assert note in scores(table).notes


def test_a_table_that_is_no_longer_made_leaves_no_file(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    folder = tmp_path / "tables"
    folder.mkdir()
    ours = f"% python -m dora.tables of {tmp_path.name}; \\input it in a document\n"
    stays = {
        "dir-minilm-best-medians.tex": "% by hand\n",
        "dir-minilm-best-differences.tex": ours.replace(tmp_path.name, "another"),
        "dir-minilm-best-lr=0.1-medians.tex": ours,  # of another choice of runs
        "dir-minilm-last-differences.tex": ours,
        "dir-minilm-best-mine.tex": ours,
    }
    gone = {"dir-minilm-best-differences-by-task.tex": ours}
    gone["dir-minilm-best-differences.csv"] = "data,model,score\ndir,minilm,best\n"
    for name, text in {**gone, **stays}.items():
        (folder / name).write_text(text)
    done = command("dora.tables", "--results", str(tmp_path))
    assert f"removed, no longer made: {', '.join(gone)}\n" in done.stdout
    assert not any((folder / name).exists() for name in gone)
    assert {name: (folder / name).read_text() for name in stays} == stays


def test_a_study_never_overwrites_the_tables_of_another(tmp_path: Path) -> None:
    paper = tmp_path / "paper"
    for study, seeds in (("one", (1, 2)), ("two", (1,))):
        for method, seed in product(("lora", "dora"), seeds):
            write_run(tmp_path / study, method, seed, 0.8 + seed / 100)

    def written(study: str) -> subprocess.CompletedProcess[str]:
        return command("dora.tables", "--results", str(tmp_path / study), "--to", str(paper))

    assert written("one").returncode == 0
    before = {path.name: path.read_bytes() for path in paper.iterdir()}
    assert "dir-minilm-best-differences-by-task.tex" in before
    done = written("two")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"--to {paper}: dir-minilm-best.tex there is of one, and a study (two) overwrites its own "
        "files alone: name another folder, or remove those of the other study\n"
    )
    assert {path.name: path.read_bytes() for path in paper.iterdir()} == before
    assert written("one").returncode == 0
    # A folder of tables that was renamed with its study is that study's.
    (tmp_path / "one").rename(tmp_path / "three")
    (tmp_path / "three" / "tables").mkdir()
    for name, text in before.items():
        (tmp_path / "three" / "tables" / name).write_bytes(text)
    assert command("dora.tables", "--results", str(tmp_path / "three")).returncode == 0
    tex = (tmp_path / "three" / "tables" / "dir-minilm-best.tex").read_text()
    assert tex.startswith("% python -m dora.tables of three; ")
    assert r"\label{tab:three-dir-minilm-best}" in tex


@pytest.mark.parametrize(
    ("name", "choice", "named"),
    [
        ("plots", (), "dir-minilm-best-score-by-budget.svg"),
        ("plots", ("--by-length",), "dir-minilm-best-score-by-length.svg"),
        ("report", (), "report.html"),
    ],
)
def test_a_study_never_overwrites_the_figures_or_the_page_of_another(
    name: str, choice: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    for study, method in product(("one", "two"), ("lora", "dora")):
        for steps in (100, 200) if choice else (100,):
            write_run(tmp_path / study, method, 1, 0.8, total_steps=steps, key=f"{steps:08d}")
    main, paper = import_module(f"dora.{name}").main, tmp_path / "paper"

    def written(study: str) -> tuple[int, str, str]:
        given = ("--results", str(tmp_path / study), "--to", str(paper), *choice)
        return in_process(main, f"dora.{name}", *given)

    assert written("one")[0] == 0
    for path in paper.glob("*steps*" if choice else "none"):
        path.unlink()  # figures of one length, named before those of several
    before = {path.name: path.read_bytes() for path in paper.iterdir()}
    assert written("two") == (
        2,
        "",
        f"--to {paper}: {named} there is of one, and a study (two) overwrites its own files alone: "
        "name another folder, or remove those of the other study\n",
    )
    assert {path.name: path.read_bytes() for path in paper.iterdir()} == before
    assert written("one")[0] == 0
    # Files that name no study, as those of earlier versions, are written anew.
    for path in paper.iterdir():
        path.write_bytes(path.read_bytes().replace(b" of one", b""))
    assert written("two")[0] == 0
    assert b" of two" in (paper / named).read_bytes()


def test_examples_are_resampled_once_for_all_texts_of_a_table(tmp_path: Path) -> None:
    for method, task, seed in product(("lora", "dora"), ("sst2", "rte"), (1, 2)):
        write_run(tmp_path, method, seed, 0.8 + seed / 100, task=task)
    (table,) = showable(read_runs(tmp_path))[0]
    before = comparison.examples.cache_info().misses
    assert files(table, tmp_path, [])
    assert comparison.examples.cache_info().misses - before == 2  # of RTE and of SST-2


@pytest.mark.parametrize("what", ["tables", "status"])
def test_each_record_is_read_once(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Reading and checking the records is most of what these commands do.
    folders = [
        write_run(tmp_path, method, seed, 0.8) for method in ("lora", "dora") for seed in (1, 2)
    ]
    opened, original = [], run_json.open_own

    def counted(folder: Path, *rest: Any) -> Any:
        opened.append(folder)
        return original(folder, *rest)

    monkeypatch.setattr(run_json, "open_own", counted)
    monkeypatch.setattr(sys, "argv", [what, "--results", str(tmp_path)])
    with suppress(SystemExit):
        import_module(f"dora.{what}").main()
    assert "lora" in capsys.readouterr().out.lower()
    assert sorted(opened) == sorted(folders)


@pytest.mark.parametrize(
    ("what", "taken"), [("tables", "tables"), ("plots", "figures"), ("report", "report.html")]
)
def test_what_cannot_be_written_is_a_message_after_what_can_be_printed(
    what: str, taken: str, tmp_path: Path
) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    # A name that is taken by the wrong kind of thing fails for root as well, unlike permissions.
    if what == "report":
        (tmp_path / taken).mkdir()
    else:
        (tmp_path / taken).write_text("a file where a folder should be")
    done = command(f"dora.{what}", "--results", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path / taken} cannot be written: ")
    assert "Traceback" not in done.stderr
    # The tables are on the terminal already; figures and the page have nothing to print.
    assert ("| LoRA   | r8     |" in done.stdout) == (what == "tables")


def test_metrics_asked_for_one_by_one_all_count(tmp_path: Path) -> None:
    for task in ("mrpc", "rte"):
        write_run(
            tmp_path, "lora", 1, 0.8, task=task, metrics={"f1": 0.9} if task == "mrpc" else {}
        )
    # argparse would keep the last --metric alone, were it not told to extend.
    done = command(
        "dora.tables", "--results", str(tmp_path), "--metric", "mrpc=f1", "--metric", "rte=accuracy"
    )
    assert done.returncode == 0, done.stderr
    assert "MRPC F1" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "mrpc"], "--metric mrpc must be TASK=METRIC"),
        (["--metric", "mrpc=f2", "x=f1"], "mrpc's metric 'f2' must be one of accuracy, f1, mean"),
        ([], "no finished run under"),
    ],
)
def test_a_mistake_is_a_message(words: list[str], message: str, tmp_path: Path) -> None:
    done = command("dora.tables", "--results", str(tmp_path), *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """Writes a study of two tasks with a search of rates beside it in one cell."""
    for task, method in (("rte", "lora"), ("rte", "dora"), ("sst2", "dora"), ("sst2", "lora")):
        write_run(tmp_path, method, 1, 0.6, task=task)
    # The second rate of one cell, which no table can show beside the first.
    config = {"task": "sst2", "method": {"name": "lora"}, "lr": 0.002, "seed": 1}
    write_run(tmp_path, "lora", 1, 0.9, task="sst2", key="ffff0000", config=config)
    return tmp_path


def test_what_cannot_be_shown_is_a_hole_a_note_a_message_and_an_exit_code(searched: Path) -> None:
    done = command("dora.tables", "--results", str(searched))
    assert done.returncode == 3
    assert (
        "| LoRA                | r8     | 900                | –         | 60.0    | –"
        in done.stdout
    )
    assert "- left out: SST-2 of lora r8: its runs are of several configurations" in done.stdout
    assert done.stderr.startswith(
        "left out:\n  - SST-2 of lora r8 on minilm, data dir: one cell holds 2"
    )
    assert (searched / "tables" / "dir-minilm-best.md").exists()


@pytest.mark.parametrize("what", ["tables", "plots", "report"])
def test_a_choice_of_runs_is_shown_under_a_name_of_its_own(what: str, searched: Path) -> None:
    done = command(f"dora.{what}", "--results", str(searched), "--where", "lr=1e-3")
    assert done.returncode == 0, done.stderr
    # Every file that the command wrote; a file without the choice would replace the whole study's.
    made = [
        p
        for p in searched.rglob("*")
        if p.is_file() and "runs" not in p.relative_to(searched).parts
    ]
    assert made
    assert all("-lr=0.001" in path.name for path in made)
    if what == "tables":
        assert "## MiniLM, GLUE (official files), best evaluation, lr=0.001" in done.stdout
        assert "| LoRA                | r8     | 900                | 60.0" in done.stdout


def test_no_page_overwrites_that_of_another_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, "lora", 1, 0.8, metrics={"f1": 0.7}, task="mrpc")
    views: list[list[str]] = [
        [],
        ["--score", "last"],
        ["--metric", "mrpc=f1"],
        ["--average", "glue"],
        ["--by-length"],
        ["--where", "seed=1"],
    ]
    for words in views:
        monkeypatch.setattr(sys, "argv", ["dora.report", "--results", str(tmp_path), *words])
        report.main()
    assert sorted(path.name for path in tmp_path.glob("report*.html")) == [
        "report-by-length.html",
        "report-glue.html",
        "report-last.html",
        "report-mrpc-f1.html",
        "report-seed=1.html",
        "report.html",
    ]


@pytest.mark.parametrize(
    ("what", "file"),
    [("tables", "*.tex"), ("plots", "*.pdf"), ("report", "report.html")],
)
def test_what_is_made_may_lie_elsewhere_than_the_runs(
    what: str, file: str, searched: Path, tmp_path: Path
) -> None:
    before = set(searched.rglob("*"))
    to = tmp_path / "paper" / what
    command(f"dora.{what}", "--results", str(searched), "--to", str(to), "--where", "lr=1e-3")
    assert list(to.glob(file.replace("report", "report*")))
    assert set(searched.rglob("*")) - before <= {to.parent, to, *to.glob("*")}


def test_where_nothing_can_be_shown_the_exit_code_is_2(searched: Path) -> None:
    # Only the cell of two configurations stays.
    for path in (searched / "runs" / "dir").glob("*/*/*"):
        if path.parts[-3:] != ("sst2", "minilm", "lora"):
            shutil.rmtree(path)
    done = command("dora.tables", "--results", str(searched))
    assert done.returncode == 2
    assert done.stderr.startswith(
        "SST-2 of lora r8 on minilm, data dir: one cell holds 2 configurations"
    )
    assert not (searched / "tables").exists()


@pytest.mark.parametrize(
    ("method", "task", "why"),
    [
        (
            "full",
            "rte",
            "a figure needs a run with a budget, a run's metrics.jsonl, or two methods",
        ),
        ("lora", "wnli", "on a task that averages count (WNLI acc: with --average glue)"),
    ],
)
def test_where_nothing_can_be_drawn_the_exit_code_is_2(
    method: str, task: str, why: str, tmp_path: Path
) -> None:
    write_run(tmp_path, method, 1, 0.6, task=task, budget="none" if method == "full" else "r8")
    done = command("dora.plots", "--results", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nothing to draw: a figure needs ")
    assert why in done.stderr
    assert not (tmp_path / "figures").exists()
    if task == "wnli":
        done = command("dora.plots", "--results", str(tmp_path), "--average", "glue")
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("what", ["tables", "plots", "report"])
def test_a_file_is_no_folder_to_write_to(what: str, tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.6)
    (tmp_path / "paper").write_text("a year's work")
    to = str(tmp_path / "paper")
    done = command(f"dora.{what}", "--results", str(tmp_path), "--to", to)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"--to {to} is a file: name a folder\n"


def test_a_row_that_lost_its_only_cell_is_all_dashes(searched: Path) -> None:
    # LoRA has no run but those of SST-2, which are of two configurations.
    shutil.rmtree(searched / "runs" / "dir" / "rte")
    (table,), _ = showable(read_runs(searched))
    made = files(table, searched, [])
    assert (
        "| LoRA                | r8     | –                  | –         |"
        in made["dir-minilm-best.md"]
    )
    assert "dir,minilm,best,lora,r8,,,,sst2,accuracy,0," in made["dir-minilm-best.csv"]


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "dora.tables"],
        ["-m", "dora.plots"],
        ["-m", "dora.report"],
        ["scripts/demo.py"],
        pytest.param(["scripts/budgets.py"], marks=pytest.mark.slow),  # both import PyTorch
        pytest.param(["scripts/pretrain_tiny.py"], marks=pytest.mark.slow),
    ],
)
def test_every_other_command_has_a_help_that_shows_how_to_call_it(command: list[str]) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_a_stale_file_that_another_command_has_removed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    folder = tmp_path / "tables"
    old = folder / "dir-minilm-best-differences.tex"

    def removed(path: Path) -> str:
        if path == old:
            path.unlink(missing_ok=True)
        return starts(path)

    def listed(*given: Any) -> list[Path]:
        return [folder / "gone.tex", *stale(*given)]

    stale, starts = tables.stale, studies.beginning
    monkeypatch.setattr(tables, "stale", listed)
    monkeypatch.setattr(studies, "beginning", removed)
    command_words = ("dora.tables", "--results", str(tmp_path))
    assert in_process(tables.main, *command_words)[0] == 0
    old.write_text(f"% python -m dora.tables of {tmp_path.name}; old")
    code, said, _ = in_process(tables.main, *command_words)
    assert (code, said.splitlines()[-1]) == (0, "removed, no longer made: gone.tex")
    assert not old.exists()
