"""The lines that `python -m dora.status` prints, also of folders and records of somebody else."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dora import status
from dora.cli.line import read
from dora.errors import UserError
from dora.records import artefacts, gaps, study
from dora.records.planned import note_planned
from dora.records.record import read_finished
from dora.sharing.submission import submit
from record_files import write_run
from runs import change_record, configure

# Names that a shell would run, a terminal obey, or an option parser take.
NAMES = (
    "$(touch x)",
    "`touch x`",
    "a;touch x",
    "a\x1b[2J",
    "a\nrm -rf x",
    "a\u202eb",
    "'; touch x; '",
    "-rf",
    "|x|",
)


def printed(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    results: Path,
    *options: str,
) -> str:
    monkeypatch.setattr(sys, "argv", ["status", "--results", str(results), *options])
    with pytest.raises(SystemExit) as e:
        status.main()
    # Not all done, as in every study here.
    assert e.value.code == 3
    return capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_folders_name_reaches_no_shell_and_no_terminal(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, empty = tmp_path / "results", tmp_path / "empty"
    empty.mkdir()
    # The name in each part of a run's place, whose folder a run never named so.
    for at in ({"model": name}, {"task": name}, {"budget": name}, {"data": name}):
        folder = write_run(
            results, "lora", 1, 0.9, key="k", status="failed", reason=f"it broke {name}"
        )
        for part, other in at.items():
            place = list(folder.parts[-7:])
            place[("data", "task", "model", "method", "budget").index(part)] = other
            (new := results.joinpath("runs", *place)).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, new)
    write_run(
        results, "dora", 2, 0.9, task="rte", words=["task=rte", f"results={name}"], status="stopped"
    )
    for options in ((), ("--missing",)):
        lines = printed(capsys, monkeypatch, results, *options).splitlines()
        assert all(line.isprintable() for line in lines)
    assert lines
    assert all(line.startswith(("python -m dora.run ", "# ")) for line in lines)
    # Pasted into a shell they start our command, which does nothing here, and nothing else.
    ran = subprocess.run(
        ["bash", "-c", "python() { :; }; . /dev/stdin"],
        input="\n".join(lines),
        text=True,
        cwd=empty,
        capture_output=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr, list(empty.iterdir())) == (0, "", [])
    for run in json.loads(printed(capsys, monkeypatch, results, "--json"))["runs"]:
        assert run["command"].isprintable()


def test_words_that_no_run_has_become_no_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["task=sst2", "hydra.sweeper._target_=os.system", "seed=1"]
    folder = write_run(tmp_path, "lora", 1, 0.9, words=words, status="stopped")
    write_run(tmp_path, "dora", 2, 0.9)
    lines = printed(capsys, monkeypatch, tmp_path, "--missing").splitlines()
    assert len(lines) == 3
    hint = (
        "its record holds words that no run has "
        "(hydra.sweeper._target_=os.system: no key of this suite)"
    )
    # The run itself, and the hole that would be filled as it was.
    assert sum(hint in line for line in lines) == 2
    assert [line.split()[0] for line in lines].count("python") == 1
    with pytest.raises(
        UserError, match=r"finish it first: the command that began it \(its record holds words"
    ):
        read_finished(folder)


def test_a_submission_names_no_command_from_words_that_no_run_has(tmp_path: Path) -> None:
    import numpy as np

    folder = write_run(
        tmp_path, "lora", 1, 0.9, task="wnli", words=["task=wnli", "hydra/launcher=evil", "seed=1"]
    )
    # Predictions of WNLI's test set, which has 146 rows.
    np.savez(
        folder / artefacts.PREDICTIONS,
        **{"best/test/logits": np.zeros((146, 2)), "test/ids": np.arange(146)},
    )
    change_record(folder, files=artefacts.sums(folder, [artefacts.PREDICTIONS]))
    lines, _ = submit([folder], tmp_path / "s.zip", "best", best=False, fill=False)
    assert any("no run of rte among these: python -m dora.run task=rte …" in line for line in lines)
    assert "evil" not in "\n".join(lines)


def test_a_hole_has_the_words_of_its_row(tmp_path: Path) -> None:
    write_run(tmp_path, "lora", 1, 0.9)
    write_run(tmp_path, "dora", 2, 0.9)
    commands = [s.command for s in gaps.scan(tmp_path) if s.state == "missing"]
    assert commands == [
        f"python -m dora.run method={m} budget=r8 model=minilm task=sst2 seed={s}"
        for m, s in (("dora", 1), ("lora", 2))
    ]


def test_a_row_has_its_score_and_the_study_its_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for method, seed, score in [("lora", 1, 0.8), ("lora", 2, 0.9), ("dora", 1, 0.7)]:
        path = write_run(tmp_path, method, seed, score) / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "train_s": 60.0}))
    said = printed(capsys, monkeypatch, tmp_path)
    rows = {line.split()[3]: line.split()[-1] for line in said.splitlines()[1:4] if line}
    assert rows == {"lora": "85.0", "dora": "70.0"}
    assert "left: about 60 s of training, 1 run\n" in said  # DoRA's second seed


def test_a_killed_run_shows_how_far_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = {"step": 3000, "total_steps": 9000, "seconds": 60.0}
    write_run(tmp_path, "lora", 1, None, status="running", progress=progress)
    write_run(tmp_path, "lora", 2, None, status="running")
    stale = [s for s in printed(capsys, monkeypatch, tmp_path).splitlines() if s[:5] == "stale"]
    assert [line.partition(": ")[2] for line in stale] == [
        "step 3,000 of 9,000, its process is gone; the command resumes it",
        "its process is gone; the command resumes it",
    ]


def test_watching_ends_when_every_run_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for method, seed in [("lora", 1), ("lora", 2), ("dora", 1)]:
        write_run(tmp_path, method, seed, 0.8)
    slept = []

    def train(seconds: float) -> None:
        slept.append(seconds)
        write_run(tmp_path, "dora", 2, 0.8)

    monkeypatch.setattr(status.time, "sleep", train)
    monkeypatch.setattr(sys, "argv", ["status", "--results", str(tmp_path), "--watch", "3"])
    with pytest.raises(SystemExit) as e:
        status.main()
    assert (e.value.code, slept) == (0, [3.0])
    said = capsys.readouterr().out
    assert said.index("4 runs: 3 done, 1 missing") < said.index("4 runs: 4 done")
    assert "\x1b" not in said  # a file or a pipe is not cleared


def test_the_command_for_a_first_run_trains_it_in_the_folder_that_has_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = tmp_path / "my (first), runs"
    monkeypatch.setattr(sys, "argv", ["status", "--results", str(results)])
    with pytest.raises(UserError, match=r"^no run under") as ended:
        status.main()
    said = str(ended.value)
    words = shlex.split(said.partition("python -m dora.run ")[2])
    assert configure(*read(words).overrides).results == str(results)
    assert study.first_command(Path("results")) == "python -m dora.run task=sst2"


def test_a_search_without_a_study_is_pointed_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_run(tmp_path / "search", "lora", 1, 0.9)
    monkeypatch.setattr(sys, "argv", ["status", "--results", str(tmp_path)])
    with pytest.raises(UserError) as ended:
        status.main()
    assert str(ended.value).endswith(f": --results {tmp_path / 'search'}")


def test_of_a_whole_study_missing_prints_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_run(tmp_path, "lora", 1, 0.9)
    # Begun before an edit that gave its command another directory: nobody comes back to it.
    before = {"updated": "2025-01-01T00:00:00+00:00"}
    write_run(tmp_path, "lora", 1, None, key="0ld0ld00", status="stopped", times=before)
    for option in ("--missing", "--watch"):
        monkeypatch.setattr(sys, "argv", ["status", "--results", str(tmp_path), option])
        with pytest.raises(SystemExit) as ended:
            status.main()
        assert ended.value.code == 0
        said = capsys.readouterr().out
        assert "python -m" not in said
        assert ("\nsuperseded dir/sst2/" in said) == (option == "--watch")


def test_a_command_trains_the_run_where_it_lies_wherever_one_stands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    place = {"task": "rte", "data": "mini", "model": "tiny_roberta", "budget": "r8", "seed": 1}
    config = {**place, "method": {"name": "lora"}, "results": "mine"}
    folder = Path("mine", "runs", "mini", "rte", "tiny_roberta", "lora", "r8", "k", "s1")
    note_planned(folder, ["task=rte", "results=mine", "lr=1e-3"], config)
    as_typed = "python -m dora.run task=rte results=mine lr=1e-3\n"
    assert printed(capsys, monkeypatch, Path("mine"), "--missing") == as_typed
    assert printed(capsys, monkeypatch, tmp_path / "mine", "--missing") == as_typed
    (tmp_path / "else").mkdir()
    monkeypatch.chdir("else")
    there = "python -m dora.run task=rte lr=1e-3 results=../mine\n"
    assert printed(capsys, monkeypatch, Path("../mine"), "--missing") == there
    with pytest.raises(UserError, match=r"finish it first: .* lr=1e-3 results=\.\./mine"):
        read_finished(Path("..", folder))
    # So are its other paths, where they are still there; what was typed elsewhere is left alone.
    (tmp_path / "a, b").mkdir()
    (tmp_path / "model").mkdir()
    for source in ("s1", "b 2"):
        (tmp_path / source).mkdir()
        (tmp_path / source / "run.json").touch()
    runs = 'method.runs=[s1,"b 2",~/x]'
    given = ['data.dir="a, b"', "model.path=model", runs, "method.names=[s2,b]"]
    others = ["rates_from=gone.json", "init_from=~/x"]
    second = Path("..", folder).with_name("s2")
    note_planned(second, ["task=rte", "results=mine", *given, *others], {**config, "seed": 2})
    there = printed(capsys, monkeypatch, Path("../mine"), "--missing").splitlines()[-1]
    named = [f"data.dir={tmp_path}/a, b", f"model.path={tmp_path}/model"]
    named += [f'method.runs=["{tmp_path}/s1","{tmp_path}/b 2","~/x"]', "method.names=[s2,b]"]
    assert shlex.split(there)[4:] == [*named, *others, "results=../mine"]
    shutil.rmtree(second)
    # Another folder of that name is here now, and the run's own was moved.
    (tmp_path / "else" / "mine").mkdir()
    (tmp_path / "mine").rename("my old")
    moved = "python -m dora.run task=rte lr=1e-3 'results=my old'\n"
    assert printed(capsys, monkeypatch, Path("my old"), "--missing") == moved
