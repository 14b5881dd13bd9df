"""A damaged, foreign or later run.json is refused by the one reader, and so by every tool."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dora import plots, report, status, tables
from dora.errors import UserError
from dora.preparing.prepare import prepare
from dora.records import packed
from dora.records.artefacts import sealed
from dora.records.identity import arithmetic
from dora.records.place import place_of
from dora.records.record import Record
from dora.records.run_json import AT_MOST, NotARecord, misplaced, read, read_done, read_placed
from dora.records.study import look
from dora.sharing.exporting import export
from dora.sharing.form import Form
from dora.sharing.submission import submit
from record_files import write_run
from runs import small

# The committed studies: written by every version of the suite so far.
RECORDS = [
    folder / "run.json"
    for file in sorted((Path(__file__).parents[2] / "results").rglob(packed.NAME))
    for folder in packed.directories(file.parent)
]
Spoil = Callable[[Path], object]


def text(content: str) -> Spoil:
    return lambda path: path.write_text(content)


def changed(**values: Any) -> Spoil:
    """Returns a spoiler that changes keys: `__` stands for a dot, `...` for a key that is gone."""

    def spoil(path: Path) -> None:
        run = json.loads(path.read_text())
        for name, value in values.items():
            *inside, key = name.split("__")
            held = run
            for part in inside:
                held = held[part]
            held[key] = value
            if value is ...:
                del held[key]
        path.write_text(json.dumps(run))

    return spoil


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere.json"))
    path.symlink_to("elsewhere.json")


def large(path: Path) -> None:
    with path.open("r+b") as file:  # a hole, which takes no space
        file.truncate(AT_MOST + 1)


NAN = float("nan")
# By name: how a sound record is spoilt, and a part of the message.
ODD: dict[str, tuple[Spoil, str]] = {
    "empty": (text(""), "JSONDecodeError"),
    "cut short": (text('{"status": "do'), "JSONDecodeError"),
    "a list": (text("[1]"), "it holds a list"),
    "no object but null": (text("null"), "it holds a NoneType"),
    "nothing in it": (text("{}"), "it has no schema"),
    "too deep": (text("[" * 100_000), "RecursionError"),
    "bytes that are no text": (lambda path: path.write_bytes(b"\xff\xfe{}"), "UnicodeDecodeError"),
    "a number of 5,000 digits": (text('{"schema": ' + "1" * 5_000 + "}"), "ValueError"),
    # Legal JSON that no terminal and no UTF-8 file can show.
    "half of a surrogate pair": (changed(note="\ud800"), "UnicodeEncodeError"),
    "a pipe": (pipe, "it is no regular file"),
    "a directory": (folder, "it is no regular file"),
    "a link": (link, "a link"),
    "too large": (large, "bytes, and at most"),
    "a later version": (changed(schema=2), "a later version of this suite wrote it"),
    # 1, True and "1" are three things.
    "a version in words": (changed(schema="1"), "it is no run's record"),
    "another status": (changed(status="finished"), "status is 'finished', which must be one of"),
    "a status that is a list": (changed(status=["done"]), r"status is \['done'\]"),
    # Sound types throughout, but of a run that is done something is missing.
    "no results": (changed(results=...), "lacks results"),
    "results that are null": (changed(results=None), "results is None"),
    "a score that is a word": (
        changed(results__best__accuracy="0.9"),
        "results.best is .*, which must be",
    ),
    "a score that is NaN": (changed(results__best__accuracy=NAN), "NaN is no JSON"),
    # Scores are fractions: a percentage would lead every table.
    "a score of 79": (changed(results__last__accuracy=79), "results.last is .* from -1 to 1"),
    "no task": (changed(config__task=...), "lacks config.task"),
    "another suite's task": (
        changed(config__task="squad"),
        "config.task is 'squad', which must be one of cola",
    ),
    "a seed that is a word": (changed(seed="1"), "seed is '1', which must be a whole number"),
    "a seed that is true": (changed(seed=True), "seed is True"),
    # From here on values deep inside, of which tables, figures, exports and --json make use.
    "ranks that are a list": (changed(ranks__end=[8]), r"ranks.end is \[8\]"),
    "a rank below 0": (changed(ranks__end={"layer.0.q": -1}), "ranks.end.layer.0.q is -1"),
    "last ranks of other matrices": (
        changed(ranks__last={"layer.0.q": 8}),
        "ranks.start and ranks.last are of other matrices: 'layer.0.q'",
    ),
    "setting in a setting": (
        changed(config__limit_train={"a": {}}),
        "config.limit_train is .*, which must be a setting",
    ),
    "a method without a name": (changed(config__method={}), "lacks config.method.name"),
    "words that are numbers": (changed(words=[1]), "words.0 is 1, which must be a text"),
    "a start of nobody": (changed(starts=[None]), "starts.0 is None"),
    "a start with odd git": (changed(starts=[{"git": "x"}]), "starts.0 is .*, which must be"),
    # Subtracting it from the time now would be a TypeError.
    "a time of no zone": (changed(times__updated="2026-01-01T00:00:00"), "times.updated is"),
    "memory of 1e400": (changed(peak_memory_bytes=float("inf")), "Infinity is no JSON"),
    # `files` without a seal is refused first: either message is right.
    "checksums that are none": (
        changed(files={"a": {"bytes": 7}}),
        "it has lost its checksum|files.a is",
    ),
    "a version that is a list": (changed(versions=["torch"]), "versions is"),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_record_is_refused_with_what_is_wrong(odd: str, tmp_path: Path) -> None:
    spoil, says = ODD[odd]
    run = write_run(tmp_path, "lora", 1, 0.5)
    assert read(run)["seed"] == 1
    spoil(run / "run.json")
    with pytest.raises(NotARecord, match=says):
        read(run)


# Every tenth of more than 400: enough to meet every version.
def test_the_records_of_every_version_so_far_are_read() -> None:
    assert len(RECORDS) > 400
    for path in RECORDS[::10]:
        run = read(path.parent)
        assert run["status"] == "done", path
        assert misplaced(run, place_of(path.parent)) is None, path


@pytest.mark.parametrize(
    "entry", [None, "x", [], {}, {"bytes": "7"}, {"bytes": 7}, {"bytes": 7, "sha256": 3}], ids=str
)
def test_a_sum_that_is_none_is_refused(entry: object, tmp_path: Path) -> None:
    run = json.loads((write_run(tmp_path, "lora", 1, 0.5) / "run.json").read_text())
    # A file's own sum, and that of the file before it.
    for name in ("first", "second"):
        sum_ = {"bytes": 1, "sha256": "0" * 64}
        held = sealed(
            {
                **run,
                "files": {
                    "best.safetensors": entry if name == "first" else {**sum_, "before": entry}
                },
            }
        )
        (tmp_path / "run.json").write_text(held)
        with pytest.raises(
            NotARecord, match=r"files.best.safetensors is .* must be bytes and sha256 of a file"
        ):
            read(tmp_path)


def test_an_unfinished_run_needs_no_results_and_may_not_have_odd_ones(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "status": "running", "times": {}}))
    assert read(tmp_path)["status"] == "running"
    # Status estimates the time left from both.
    changed(progress={"step": 3})(tmp_path / "run.json")
    with pytest.raises(
        NotARecord, match=r"progress is .*, which must be an object with step and total_steps"
    ):
        read(tmp_path)


# The rest of the file: every tool refuses such a record.


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """Writes two sound runs, an odd one of every kind beside them, and one in another's place."""
    results = tmp_path_factory.mktemp("study")
    for seed in (1, 2):
        write_run(results, "lora", seed, 0.5)
    odd = {}
    for number, (name, (spoil, _)) in enumerate(ODD.items(), 10):
        odd[name] = write_run(results, "lora", number, 0.5)
        spoil(odd[name] / "run.json")
    # As after a careless copy: DoRA's record in the place of a LoRA run.
    moved = write_run(results, "dora", 3, 0.5)
    odd["another's place"] = moved.rename(moved.parents[3] / "lora" / "r8" / "abcd1234" / "s3")
    return results, odd


@pytest.mark.parametrize("tool", [status, tables, plots, report])
def test_a_tool_leaves_odd_records_out_and_shows_the_rest(
    tool: Any,
    study: tuple[Path, dict[str, Path]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results, odd = study
    # Each message is said once a process, and the tools of this test share one.
    monkeypatch.setattr("dora.records.finished._said", {})
    monkeypatch.setattr(sys, "argv", [tool.__name__, "--results", str(results)])
    with pytest.raises(SystemExit) as e:
        tool.main()
    # Shown, but not all of it.
    assert e.value.code == 3
    said = capsys.readouterr()
    for path in odd.values():
        start = "broken    " if tool is status else "left out: "
        assert start in said.out + said.err
        assert f"{path.parent.name}/{path.name}" in (said.out if tool is status else said.err)
    assert {status: "2 done", tables: "50.0 ± 0.0", plots: ".png", report: "report.html"}[
        tool
    ] in said.out


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_record_is_neither_exported_nor_submitted_nor_resumed(
    odd: str, study: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    run = study[1][odd]
    with pytest.raises(UserError, match=r"run.json cannot be read"):
        export(run, tmp_path / "out", Form())
    with pytest.raises(UserError, match=r"run.json cannot be read"):
        submit([run], tmp_path / "s.zip", "best", best=False, fill=False)
    record = Record(run)
    try:
        with pytest.raises(
            UserError,
            match=r"run.json cannot be read .* or use force=true|links or pipes",
        ):
            record.open({})
    finally:
        record.close()
    assert look(run).state == "broken"


@pytest.mark.parametrize(
    "content",
    [
        '{"host": 1, "pid": "x", "token": []}',
        '{"host": "h", "pid": -1, "token": "t"}',
        "[" * 100_000,
        json.dumps({"host": os.uname().nodename, "pid": 10**30, "token": "t"}),
        "pipe",
        "folder",
        b"\xff",
    ],
)
def test_an_odd_lock_stops_no_look(content: str | bytes, tmp_path: Path) -> None:
    run = write_run(tmp_path, "lora", 1, None, status="running")
    lock = run / ".lock"
    if content == "pipe":
        os.mkfifo(lock)
    elif content == "folder":
        lock.mkdir()
    else:
        lock.write_bytes(content if isinstance(content, bytes) else content.encode())
    # The record says running, and no holder can be made out: whoever wrote it is gone.
    assert look(run).state == "stale"


@pytest.mark.parametrize(("typed", "folder"), [("r8", "r8"), ("20k", "20000"), ("0.3M", "300000")])
def test_a_record_in_the_folder_of_another_budget_is_in_anothers_place(
    typed: str, folder: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path, "lora", 1, 0.5, budget=typed)
    # Folders name a budget in one way, however it was typed.
    here = place_of(run)
    assert here.budget == folder
    assert (
        misplaced({**read(run), "config": {**read(run)["config"], "budget": typed}}, here) is None
    )
    assert "budget" in str(misplaced(read(run), here._replace(budget="r9")))


# Settings are free: the reader only asks that a number be finite.
def test_a_number_as_large_as_a_run_may_have_is_a_setting(tmp_path: Path) -> None:
    assert read(write_run(tmp_path, "lora", 1, 0.5, config={"lr": 1e300}))["config"]["lr"] == 1e300


@pytest.mark.parametrize("model", ["tiny_roberta", "tiny_deberta"])
def test_a_record_copied_to_another_configuration_or_seed_is_no_run_of_it(
    model: str, tmp_path: Path
) -> None:
    # By hand, say, to spare a run: its numbers would stand under another one's name.
    words = (f"model={model}", "method=lora")
    one = prepare(small(tmp_path, *words))
    run = write_run(
        tmp_path,
        "lora",
        one.config.seed,
        0.5,
        one.config.task.name,
        str(one.config.budget),
        model=model,
        data=one.config.data_name,
        config=one.settings,
        fingerprints=one.fingerprints,
        arithmetic=arithmetic(one.model_type),
    )
    assert run == one.folder
    assert read_done(run) == read(run)
    others = {
        f"seed 's{one.config.seed}'": prepare(small(tmp_path, *words, "seed=7")).folder,
        f"key '{run.parent.name}'": prepare(small(tmp_path, *words, "lr=1e-5")).folder,
    }
    for told, other in others.items():
        shutil.copytree(run, other)
        assert read_done(other) is None
        problem = f"it is the record of {told}, in another's place"
        with pytest.raises(NotARecord, match=f"^{problem}$"):
            read_placed(other)
        with pytest.raises(UserError, match=f"{problem}.; remove it to resume, or use force=true"):
            opened(other)
        assert "config" not in opened(other, force=True)


def opened(folder: Path, force: bool = False) -> dict[str, Any]:
    """Returns the record of a run directory as a run that begins there finds it."""
    record = Record(folder)
    try:
        record.open({}, force)
        return record.data
    finally:
        record.close()


def test_a_directory_outside_of_a_results_folder_has_no_place(tmp_path: Path) -> None:
    run = write_run(tmp_path, "lora", 1, 0.5)
    for moved in (tmp_path / "kept", run.parent.parent / "s2"):
        shutil.copytree(run, moved)
        assert read_placed(moved) == read(run)


def test_a_runs_directory_may_be_named_from_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path, "lora", 1, 0.5)
    monkeypatch.chdir(run.parent)
    assert read_placed(Path("s1")) == read(run)
    run.rename("s2")
    with pytest.raises(NotARecord, match="it is the record of seed 's1', in another's place"):
        read_placed(Path("s2"))
