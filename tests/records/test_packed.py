"""Records packed into one file are read as the runs' directories are."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dora.analysis.conflicts import one_configuration
from dora.analysis.run_journals import curve
from dora.checked_files import open_own
from dora.collect import collect
from dora.errors import NotNow, UserError
from dora.records import artefacts, packed, study
from dora.records.anonymous import anonymous
from dora.records.directories import directories, directory
from dora.records.finished import anything_left_out, read_runs
from dora.records.place import place_of
from dora.records.planned import note_planned
from record_files import write_run
from runs import change_record, command


def some(results: Path) -> list[Path]:
    """Writes four runs; returns their directories."""
    return [write_run(results, m, seed, 0.8) for m in ("lora", "dora") for seed in (1, 2)]


def without_folder(runs: list[Any]) -> list[Any]:
    """Returns records without the place of their directory on this disk."""
    return [{k: v for k, v in run.items() if k != "folder"} for run in runs]


def test_tables_and_status_say_the_same_of_packed_runs(tmp_path: Path) -> None:
    results, shared = tmp_path / "results", tmp_path / "shared"
    some(results)
    (shared / "x").mkdir(parents=True)
    line = collect(results, shared / packed.NAME)
    assert line.startswith(f"{shared / packed.NAME}: 4 runs, ")
    assert without_folder(read_runs(shared)) == without_folder(read_runs(results))
    for name in ("dora.tables", "dora.status"):
        here, there = (command(name, "--results", str(f)) for f in (results, shared))
        assert there.returncode == here.returncode == 0, there.stderr
        assert there.stdout.replace(str(shared), "X") == here.stdout.replace(str(results), "X")
    # Everything that a report draws from is there, too.
    for one, other in zip(directories(results), directories(shared), strict=True):
        assert place_of(one) == place_of(other)
        kept = {file.name for file in other.iterdir()}
        assert kept == {file.name for file in one.iterdir()} & set(packed.FILES)
        assert all((one / name).read_bytes() == (other / name).read_bytes() for name in kept)


def test_what_a_killed_reader_has_unpacked_is_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some(tmp_path)
    collect(tmp_path, tmp_path / packed.NAME)
    here = tmp_path / "tmp"
    here.mkdir()
    read = f"from dora.records import packed; from dora.records.directories import directories; directories(Path({str(tmp_path)!r}))"
    code = f"import os; from pathlib import Path; {read}; os._exit(9)"
    env = {**os.environ, "TMPDIR": str(here)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 9
    (left,) = here.iterdir()
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    packed._unpacked.cache_clear()
    assert len(packed.directories(tmp_path)) == 4
    (own,) = here.iterdir()
    assert own != left


@pytest.mark.parametrize("call", ["mkdtemp", "write_bytes"])
@pytest.mark.parametrize(
    ("code", "kind", "way"),
    [(errno.ENOSPC, NotNow, "make room there, or name"), (errno.EROFS, UserError, "name")],
)
def test_a_temporary_folder_that_takes_nothing_is_no_damage_of_the_packed_file(
    call: str,
    code: int,
    kind: type[Exception],
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    collect(tmp_path, tmp_path / packed.NAME)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    packed._unpacked.cache_clear()
    monkeypatch.setattr(tempfile if call == "mkdtemp" else Path, call, fail)
    said = f"temporary folder: {os.strerror(code)}; {way} another folder in TMPDIR"
    with pytest.raises(kind, match=said):
        packed.directories(tmp_path)


def test_a_second_reader_finds_files_of_the_same_time(tmp_path: Path) -> None:
    some(tmp_path)
    collect(tmp_path, tmp_path / packed.NAME)
    shutil.rmtree(tmp_path / "runs")
    times = []
    for _ in range(2):  # as two processes do
        packed._unpacked.cache_clear()
        times.append([(f / "run.json").stat().st_mtime_ns for f in directories(tmp_path)])
    assert times[0] == times[1]


def test_equal_records_give_equal_bytes_and_only_finished_runs_are_packed(tmp_path: Path) -> None:
    some(tmp_path)
    collect(tmp_path, tmp_path / "one.gz")
    unfinished = write_run(tmp_path, "adalora", 1, 0.8) / "run.json"
    record = json.loads(unfinished.read_text())
    unfinished.write_text(json.dumps({**record, "status": "failed"}))
    assert collect(tmp_path, tmp_path / "two.gz").endswith("left out: 1 not done or damaged")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()


def test_later_runs_are_added_and_a_directory_counts_before_the_file(tmp_path: Path) -> None:
    folders = some(tmp_path)
    collect(tmp_path, tmp_path / packed.NAME)
    shutil.rmtree(tmp_path / "runs")
    assert len(read_runs(tmp_path)) == len(folders)
    write_run(tmp_path, "lora", 1, 0.5)  # again, with another score
    write_run(tmp_path, "lora", 3, 0.9)
    assert "5 runs" in collect(tmp_path, tmp_path / packed.NAME)
    shutil.rmtree(tmp_path / "runs")
    scores = {
        (run["config"]["method"]["name"], run["seed"]): run["results"]["best"]
        for run in read_runs(tmp_path)
    }
    assert len(scores) == 5
    assert 0.5 in scores["lora", 1].values()


@pytest.mark.parametrize("instead", ["waiting", "stopped", "damaged", "misplaced", "empty"])
def test_a_packed_run_stays_where_its_directory_is_no_finished_run(
    instead: str, tmp_path: Path
) -> None:
    folders = some(tmp_path)
    line = collect(tmp_path, tmp_path / packed.NAME)
    whole = (tmp_path / packed.NAME).read_bytes()
    kept = json.loads((folders[0] / "run.json").read_text())
    shutil.rmtree(tmp_path / "runs")
    if instead == "waiting":  # as a sweep notes it that begins with another run
        note_planned(folders[0], ["task=sst2"], kept["config"])
    else:
        folders[0].mkdir(parents=True)
    changed: dict[str, Any] = {
        "stopped": {"status": "stopped"},
        "misplaced": {"config": {"task": "rte"}},
    }
    if instead in changed:
        (folders[0] / "run.json").write_text(json.dumps({**kept, **changed[instead]}))
    elif instead == "damaged":
        (folders[0] / "run.json").write_text("{")
    assert collect(tmp_path, tmp_path / packed.NAME) == line
    assert (tmp_path / packed.NAME).read_bytes() == whole


@pytest.mark.parametrize("instead", ["waiting", "empty"])
def test_a_directory_in_which_no_run_was_begun_hides_no_packed_run(
    instead: str, tmp_path: Path
) -> None:
    folders = some(tmp_path)
    collect(tmp_path, tmp_path / packed.NAME)
    before = [{**run, "folder": None} for run in read_runs(tmp_path)]
    kept = json.loads((folders[0] / "run.json").read_text())
    shutil.rmtree(tmp_path / "runs")
    if instead == "waiting":
        note_planned(folders[0], ["task=sst2"], kept["config"])
    else:
        folders[0].mkdir(parents=True)
    assert [{**run, "folder": None} for run in read_runs(tmp_path)] == before
    states = {study.look(path).state for path in directories(tmp_path)}
    assert states == {"done"}
    assert directory(folders[0]) != folders[0]
    # A run that was begun there again counts, whatever has become of it.
    (folders[0] / "run.json").write_text(json.dumps({**kept, "status": "stopped"}))
    assert directory(folders[0]) == folders[0]
    assert len(read_runs(tmp_path)) == len(before) - 1


def test_runs_that_diverged_are_packed_and_named_by_tables(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    record = write_run(tmp_path, "lora", 2, 0.8) / "run.json"
    lost = {**json.loads(record.read_text()), "status": "diverged", "reason": "loss nan"}
    record.write_text(json.dumps(lost))
    assert "2 runs" in collect(tmp_path, tmp_path / packed.NAME)
    shutil.rmtree(tmp_path / "runs")
    assert [run["seed"] for run in read_runs(tmp_path)] == [1]
    assert [study.look(path).state for path in directories(tmp_path)] == ["done", "diverged"]
    # Trained again, it takes the place of the record in the file.
    write_run(tmp_path, "lora", 2, 0.8)
    collect(tmp_path, tmp_path / packed.NAME)
    shutil.rmtree(tmp_path / "runs")
    assert [run["seed"] for run in read_runs(tmp_path)] == [1, 2]


def begun_anew(folder: Path) -> None:
    """Does as the start of a run with force=true, up to the first line of its journal."""
    change_record(folder, status="running")
    (folder / "metrics.jsonl").write_text("{}\n")


def removed_record(folder: Path) -> None:
    (folder / "run.json").unlink()


def meanwhile(monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], name: str) -> None:
    """Lets `change` befall the run of seed 1 just before this file of it is read to be packed."""

    def opened(folder: Path, file: str, *given: Any) -> Any:
        if (folder.name, file) == ("s1", name) and packed.origin(folder) is None:
            monkeypatch.setattr(packed, "open_own", open_own)
            change(folder)
        return open_own(folder, file, *given)

    monkeypatch.setattr(packed, "open_own", opened)


@pytest.mark.parametrize("change", [begun_anew, removed_record, shutil.rmtree])
@pytest.mark.parametrize("name", packed.FILES)
@pytest.mark.parametrize("before", [True, False])
def test_a_run_that_is_begun_anew_or_removed_while_it_is_packed_costs_the_file_nothing(
    before: bool,
    name: str,
    change: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in (1, 2):
        folder = write_run(tmp_path, "lora", seed, 0.8)
        (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    file = tmp_path / packed.NAME
    if before:
        collect(tmp_path, file)
        whole = file.read_bytes()
    meanwhile(monkeypatch, change, name)
    line = collect(tmp_path, file)
    if before:
        assert (": 2 runs" in line, "left out" in line) == (True, False)
        assert file.read_bytes() == whole
    else:
        assert (": 1 run," in line, "left out: 1 not done" in line) == (True, True)
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    assert {run["status"] for run in read_runs(tmp_path)} == {"done"}


def test_of_runs_that_are_all_begun_anew_meanwhile_no_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    meanwhile(monkeypatch, begun_anew, "metrics.jsonl")
    with pytest.raises(UserError, match="would hold no run: none is done or has diverged any more"):
        collect(tmp_path, tmp_path / packed.NAME)
    assert not (tmp_path / packed.NAME).exists()


def test_a_journal_that_its_record_does_not_know_is_named_and_not_packed(tmp_path: Path) -> None:
    *_, folder = some(tmp_path)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    change_record(folder, files=artefacts.sums(folder, ["metrics.jsonl"]))
    assert ": 4 runs" in collect(tmp_path, tmp_path / packed.NAME)
    (tmp_path / packed.NAME).unlink()
    (folder / "metrics.jsonl").write_text('{"step": 2}\n')
    done = command("dora.collect", str(tmp_path))
    assert (done.returncode, ": 3 runs" in done.stdout) == (3, True)
    assert f"left out: {folder}/metrics.jsonl cannot be read (it is damaged or" in done.stderr


def test_an_anonymous_file_does_not_take_the_place_of_one_with_hosts(tmp_path: Path) -> None:
    some(tmp_path)
    collect(tmp_path, tmp_path / packed.NAME)
    with pytest.raises(UserError, match="would lose hosts"):
        collect(tmp_path, tmp_path / packed.NAME, blind=True)
    assert "4 runs" in collect(tmp_path, tmp_path / "blind.gz", blind=True)


def test_folders_of_several_machines_become_one_file(tmp_path: Path) -> None:
    one, two, both = (tmp_path / name for name in ("one", "two", "both"))
    write_run(one, "lora", 1, 0.81)
    write_run(two, "lora", 1, 0.82)  # done on both: the first folder's counts
    write_run(two, "lora", 2, 0.83)
    write_run(one, "dora", 1, None, status="diverged", reason="loss not finite")
    write_run(two, "dora", 1, 0.84)  # diverged on the one, done on the other
    collect(two, two / packed.NAME)
    shutil.rmtree(two / "runs")
    both.mkdir()
    done = command("dora.collect", str(one), str(two), "--to", str(both / packed.NAME))
    assert (done.returncode, "3 runs" in done.stdout) == (0, True), done.stderr
    found = {
        (run["config"]["method"]["name"], run["seed"]): run["results"]["best"]["accuracy"]
        for run in read_runs(both)
    }
    assert found == {("lora", 1): 0.81, ("lora", 2): 0.83, ("dora", 1): 0.84}
    # Without --to each folder gets a file of its own.
    assert command("dora.collect", str(one), str(two)).returncode == 0
    assert len(read_runs(one)) == 1


def test_a_folder_without_runs_is_named_and_nothing_is_packed(tmp_path: Path) -> None:
    write_run(tmp_path / "one", "lora", 1, 0.81)
    with pytest.raises(UserError) as told:
        collect([tmp_path / "one", tmp_path / "tow"], tmp_path / packed.NAME)
    assert told.value.problems == (f"no finished run under {tmp_path}/tow/runs",)
    assert not (tmp_path / packed.NAME).exists()


def test_a_damaged_record_stays_in_the_file_until_the_run_is_trained_again(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.8)
    record = write_run(tmp_path, "lora", 2, 0.8) / "run.json"
    record.write_text("{")
    packed.write(tmp_path / packed.NAME, directories(tmp_path))
    whole = (tmp_path / packed.NAME).read_bytes()
    shutil.rmtree(tmp_path / "runs")
    assert "2 runs" in collect(tmp_path, tmp_path / packed.NAME)
    assert (tmp_path / packed.NAME).read_bytes() == whole
    write_run(tmp_path, "lora", 2, 0.8)
    assert "2 runs" in collect(tmp_path, tmp_path / packed.NAME)
    shutil.rmtree(tmp_path / "runs")
    assert [run["seed"] for run in read_runs(tmp_path)] == [1, 2]


def test_every_name_that_a_configuration_may_have_is_read_back(tmp_path: Path) -> None:
    results, shared = tmp_path / "results", tmp_path / "shared"
    shared.mkdir()
    for model in ("my model", "modèle", "模型 2", "a.b+c-", "x" * 250):
        write_run(results, "lora", 1, 0.8, model=model, data="mes données")
    assert "5 runs" in collect(results, shared / packed.NAME)
    assert without_folder(read_runs(shared)) == without_folder(read_runs(results))
    # dora.configuration.check lets names of these characters through; the first is a letter, a digit or _.
    letters = (c for c in map(chr, range(sys.maxunicode + 1)) if re.fullmatch(r"\w", c))
    assert all(map(packed._names_a_folder, letters))
    assert all(packed._names_a_folder(f"x{c}") for c in " .+-")


def test_all_runs_that_would_not_be_read_back_are_named_and_the_old_file_stays(
    tmp_path: Path,
) -> None:
    some(tmp_path)
    collect(tmp_path, tmp_path / packed.NAME)
    whole = (tmp_path / packed.NAME).read_bytes()
    # Folders renamed by hand: nothing in the record says which key is the run's.
    keys = (".old", "two\nlines", "\x1b[2J", "\u202e", "\udcff")  # the last: a byte 255
    for key in keys:
        write_run(tmp_path, "lora", 3, 0.8, key=key)
    done = command("dora.collect", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("is no place of a run; move it away") == len(keys)
    for key in (".old", r"two\nlines", r"\x1b[2J", r"\u202e", r"\udcff"):
        assert f"{key}/s3 cannot be packed: " in done.stderr
    # A terminal obeys nothing of it.
    assert done.stderr.replace("\n", "").isprintable()
    assert (tmp_path / packed.NAME).read_bytes() == whole


def test_records_longer_than_the_reader_takes_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path, "lora", 1, 0.8)
    (folder / "metrics.jsonl").write_text("x" * 1000)
    with_journal = len(packed._line(packed.texts_of(folder)))
    monkeypatch.setattr(packed, "_LONGEST", with_journal)
    collect(tmp_path, tmp_path / packed.NAME)
    assert len(packed.directories(tmp_path)) == 1
    whole = (tmp_path / packed.NAME).read_bytes()
    (folder / "metrics.jsonl").write_text("x" * 1001)
    with pytest.raises(UserError, match=f"{folder} cannot be packed: .*more than {with_journal:,}"):
        collect(tmp_path, tmp_path / packed.NAME)
    assert (tmp_path / packed.NAME).read_bytes() == whole
    # A file from elsewhere is held to the same length.
    monkeypatch.setattr(packed, "_LONGEST", with_journal - 1)
    packed._unpacked.cache_clear()
    with pytest.raises(UserError, match=f"more than {with_journal - 1:,} characters"):
        packed.directories(tmp_path)


def test_what_is_left_out_of_a_packed_study_is_named_by_its_file_and_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = some(tmp_path)
    (folders[0] / "metrics.jsonl").write_text("no line of a run\n")
    (folders[1] / "run.json").write_text("{")
    packed.write(tmp_path / packed.NAME, folders)
    shutil.rmtree(tmp_path / "runs")
    named = [f"{tmp_path / packed.NAME}: {'/'.join(place_of(folder))}" for folder in folders]
    runs = read_runs(tmp_path)
    assert len(runs) == 3
    assert anything_left_out(tmp_path)
    assert not anything_left_out(tmp_path / "other")
    (run,) = (r for r in runs if place_of(r["folder"]) == place_of(folders[0]))
    assert not list(curve(run, "train", "loss"))
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" cannot")[0] for line in said] == [
        f"left out: {named[1]}/run.json",
        f"left out: {named[0]}/metrics.jsonl",
    ]
    packed._unpacked.cache_clear()  # unpacked anew, they are not said again
    read_runs(tmp_path)
    assert capsys.readouterr().err == ""
    done = command("dora.tables", "--results", str(tmp_path))
    assert (done.returncode, f"left out: {named[1]}/run.json" in done.stderr) == (3, True)
    assert "dora-records" not in done.stdout + done.stderr


def test_a_conflict_names_packed_runs_by_their_file(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path, "lora", 1, 0.8, key=key, config={"lr": lr})
        for key, lr in (("aaaa1111", 0.1), ("bbbb2222", 0.2))
    ]
    packed.write(tmp_path / packed.NAME, folders)
    shutil.rmtree(tmp_path / "runs")
    _, problem = one_configuration(read_runs(tmp_path))
    assert problem is not None
    for folder in folders:
        assert f"{tmp_path / packed.NAME}: {'/'.join(place_of(folder)[:-1])}" in problem


def file_of(tmp_path: Path, *lines: Any) -> Path:
    """Writes a packed file of these lines, which need not be sound; returns its folder."""
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (tmp_path / packed.NAME).write_bytes(gzip.compress(text.encode()))
    return tmp_path


PLACE = "mini/rte/tiny/lora/r8/0a1b2c3d/s1"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ((), "no JSON object"),
        (({"format": "other", "version": 1},), "no file of python -m dora.collect"),
        (({**packed.FORMAT, "version": 2},), "a later version"),
        ((packed.FORMAT, "[1]"), "no JSON object"),
        ((packed.FORMAT, "{"), "Expecting"),
        ((packed.FORMAT, {"place": "../../../../../../s1"}), "no place of a run"),
        ((packed.FORMAT, {"place": f"/{PLACE}"}), "no place of a run"),
        ((packed.FORMAT, {"place": f"{PLACE}x"}), "no place of a run"),
        *(
            ((packed.FORMAT, {"place": PLACE.replace("tiny", part)}), "no place of a run")
            for part in ("", ".", "..", ".x", "a/b", "a\n", "\0", "\x9b", "\ud800", "x" * 256)
        ),
        ((packed.FORMAT, {"place": PLACE, "../run.json": ""}), "no file of a run's records"),
        ((packed.FORMAT, {"place": PLACE, "run.json": 1}), "is no text"),
        ((packed.FORMAT, {"place": PLACE}), "has no run.json"),
        ((packed.FORMAT, *[{"place": PLACE, "run.json": "{}"}] * 2), f"it holds {PLACE} twice"),
    ],
)
def test_a_file_that_is_not_sound_is_refused(
    lines: tuple[Any, ...], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        packed.directories(file_of(tmp_path, *lines))


def test_a_file_that_is_cut_short_is_refused_and_none_is_no_runs(tmp_path: Path) -> None:
    assert packed.directories(tmp_path) == []
    some(tmp_path)
    collect(tmp_path, tmp_path / packed.NAME)
    whole = (tmp_path / packed.NAME).read_bytes()
    (tmp_path / packed.NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="copy it again"):
        packed.directories(tmp_path)
    for line in (("dora.tables",), ("dora.status",), ("dora.status", "--verify")):
        done = command(*line, "--results", str(tmp_path))
        assert (done.returncode, "copy it again" in done.stderr) == (2, True)
        assert "Traceback" not in done.stderr


def test_the_command_packs_every_folder_and_says_where_there_is_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        some(tmp_path / name)
    done = command("dora.collect", *(str(tmp_path / name) for name in ("a", "c", "b")))
    assert [line.split(": ")[1].split(",")[0] for line in done.stdout.splitlines()] == [
        "4 runs"
    ] * 2
    assert (done.returncode, done.stderr) == (
        2,
        f"nothing packed: no finished run under {tmp_path}/c/runs\n",
    )


def test_no_file_but_an_older_one_of_its_kind_is_replaced(tmp_path: Path) -> None:
    (run, *_) = some(tmp_path)
    paper, table = tmp_path / "paper.tex", tmp_path / "table.gz"
    paper.write_text("a year's work")
    table.write_bytes(gzip.compress(b"a,b\n"))
    for to, why in (
        (paper, "is there and holds no packed records"),
        (table, "is there and holds no packed records"),
        (tmp_path / "runs", "is there and holds no packed records"),
        (run / "run.json", f"lies in {run}, a run's directory"),
        (run / "export" / "x.gz", f"lies in {run}, a run's directory"),
    ):
        before = to.read_bytes() if to.is_file() else None
        done = command("dora.collect", str(tmp_path), "--to", str(to))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"nothing packed: {to} {why}")
        assert (to.read_bytes() if to.is_file() else None) == before
    for _ in range(2):  # the second time over the first one's file
        done = command("dora.collect", str(tmp_path), "--to", str(tmp_path / "mine.gz"))
        assert done.returncode == 0, done.stderr


def test_an_anonymous_file_names_no_host_and_no_folder_and_is_read_like_any(tmp_path: Path) -> None:
    (folder, *_) = some(tmp_path)
    record = json.loads((folder / "run.json").read_text())
    words = [*record["words"], "model.path='/home/anna/my models/small'", "data.dir=~anna/GLUE/"]
    # What ends a path in running text may stand in the name of any folder.
    words += ["results=/home/anna b/x", "init_from=/srv/anna's lab (c)/s1", "wandb=/anna, b/y"]
    known = {"device": "cpu", "world_size": 1, "git": None, "versions": {}}
    start = {"step": 0, "time": "2026-01-01T00:00:00+00:00", "host": "annas-laptop", **known}
    changes = {
        "words": words,
        "command": "python -m dora.run 'method.runs=[/home/anna/a/s1,../b]' results=x/home "
        "'data.dir=/home/anna b/GLUE'",
        "host": "annas-laptop",
        "starts": [start],
        "note": "see https://example.org/home/page",
    }
    (folder / "run.json").write_text(artefacts.sealed({**record, **changes, "files": {}}))
    done = command("dora.collect", str(tmp_path), "--to", str(tmp_path / "x.gz"), "--anonymous")
    assert done.returncode == 0, done.stderr
    (tmp_path / "shared").mkdir()
    (tmp_path / "x.gz").rename(tmp_path / "shared" / packed.NAME)
    runs = read_runs(tmp_path / "shared")
    assert [run["results"] for run in runs] == [run["results"] for run in read_runs(tmp_path)]
    (blind,) = (run for run in runs if run.get("note") == "see https://example.org/home/page")
    assert blind["words"][-5:] == [
        *("model.path='small'", "data.dir=GLUE", "results=x", "init_from=s1", "wandb=y")
    ]
    said = "python -m dora.run 'method.runs=[s1,../b]' results=x/home data.dir=GLUE"
    assert blind["command"] == said
    assert (blind["host"], blind["starts"][0]["host"]) == ("host", "host")
    assert b"anna" not in gzip.decompress((tmp_path / "shared" / packed.NAME).read_bytes())


def test_a_damaged_record_is_not_packed_in_silence(tmp_path: Path) -> None:
    damaged = some(tmp_path)[0] / "run.json"
    damaged.write_text(damaged.read_text()[:-20])
    done = command("dora.collect", str(tmp_path))
    assert (done.returncode, str(damaged) in done.stderr) == (3, True)
    assert ": 3 runs" in done.stdout


@pytest.mark.parametrize("folder", ["/home/alice", "/home/alice/", "/Users/alice"])
def test_an_anonymous_record_does_not_name_whose_home_it_was_made_in(folder: str) -> None:
    said = {"reason": f"cannot read '{folder}'", "config": {"results": folder, "data": {}}}
    words = [f"results={folder}", f"x=[{folder},{folder}/glue]"]
    text = anonymous(json.dumps({**said, "command": f"run results={folder}", "words": words}))
    assert "alice" not in text
    assert json.loads(text)["words"] == ["results=home", "x=[home,glue]"]
