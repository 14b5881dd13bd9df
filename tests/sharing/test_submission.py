"""A submission holds the runs' own test predictions as the GLUE server reads them."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.records import artefacts
from dora.sharing import submission
from dora.sharing.leaderboard import FILES
from dora.sharing.submission import submit
from record_files import write_run
from runs import arrays, change_record, command, configure, only_run, run, small, small_glue

# The lines of a whole submission's files, headers not counted; from GLUE's test sets, not from
# FILES, so that a number changed there is found.
OFFICIAL = {
    "AX": 1104,
    "CoLA": 1063,
    "MNLI-m": 9796,
    "MNLI-mm": 9847,
    "MRPC": 1725,
    "QNLI": 5463,
    "QQP": 390965,
    "RTE": 3000,
    "SST-2": 1821,
    "STS-B": 1379,
    "WNLI": 146,
}
# The three files that the one MNLI model predicts.
NLI = {"MNLI-m", "MNLI-mm", "AX"}


def invented(
    folder: Path, task: str, seed: int = 1, score: float = 0.5, data: str = "dir", **arrays: Any
) -> Path:
    """Writes a finished run's directory with random test logits of the official sizes.

    Rows are in a random order. `arrays`: others of predictions.npz, None to leave one out.
    """
    random = np.random.default_rng(seed)
    stored: dict[str, np.ndarray] = {}
    for file in (f for f in FILES if f.trained == task):
        # A random order: the zip must be sorted by index, whatever the order of predictions.
        stored[f"{file.split}/ids"] = random.permutation(file.rows)
        for which in ("best", "last"):
            # Around the middle of STS-B's scale and beyond both ends; any class may win elsewhere.
            logits = random.normal(2.5, 3, (file.rows, file.task.outputs)).astype(np.float32)
            stored[f"{which}/{file.split}/logits"] = logits
    results = {"step": 1, TASKS[task].metrics[0]: score, "degenerate": None}
    both = {"best": results, "last": results}
    words = [f"task={task}", "data=hub"]
    place = write_run(
        folder, "lora", seed, None, task, model="m", data=data, results=both, words=words
    )
    kept = {k: v for k, v in {**stored, **arrays}.items() if v is not None}
    np.savez(place / "predictions.npz", **kept)  # type: ignore[arg-type]
    change_record(place, files=artefacts.sums(place, ["predictions.npz"]))
    return place


def read(path: Path) -> dict[str, list[list[str]]]:
    """Returns the lines of each file of a zip as fields, by its name without .tsv."""
    with zipfile.ZipFile(path) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert all(name.endswith(".tsv") and text.endswith("\n") for name, text in texts.items())
    return {
        n.removesuffix(".tsv"): [line.split("\t") for line in t.splitlines()]
        for n, t in texts.items()
    }


def send(
    *folders: Path, to: Path, which: str = "best", best: bool = False, fill: bool = False
) -> list[str]:
    """Writes the zip `to`; returns the lines that tell of it."""
    return submit(folders, to, which, best, fill)[0]


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Writes a run of each task, once for the module: QQP's logits take a second."""
    return [invented(tmp_path_factory.mktemp("nine"), task) for task in TASKS]


def test_nine_runs_make_the_eleven_official_files(nine: list[Path], tmp_path: Path) -> None:
    said = send(*nine, to=tmp_path / "s.zip")
    files = read(tmp_path / "s.zip")
    assert {name: len(lines) - 1 for name, lines in files.items()} == OFFICIAL
    for name, lines in files.items():
        assert lines[0] == ["index", "prediction"]
        assert [line[0] for line in lines[1:]] == [str(i) for i in range(len(lines) - 1)]
        words = {line[1] for line in lines[1:]}
        # Every label at least once among random logits, and none but GLUE's own.
        if name == "STS-B":
            assert {"0.0000", "5.0000"} < words
            assert all(0 <= float(word) <= 5 for word in words)
        elif name in NLI:
            assert words == {"entailment", "neutral", "contradiction"}
        elif name in ("RTE", "QNLI"):
            assert words == {"entailment", "not_entailment"}
        else:
            assert words == {"0", "1"}
    assert not [line for line in said if line.startswith("MISSING")]


@pytest.mark.parametrize(
    ("task", "split", "name"),
    [
        ("rte", "test", "RTE"),
        ("mnli", "ax", "AX"),
        ("mnli", "test_mm", "MNLI-mm"),
        ("wnli", "test", "WNLI"),
    ],
)
@pytest.mark.parametrize("which", ["best", "last"])
def test_each_row_holds_the_label_of_its_own_highest_logit(
    task: str, split: str, name: str, which: str, nine: list[Path], tmp_path: Path
) -> None:
    folder = next(f for f in nine if task in f.parts)
    send(folder, to=tmp_path / "s.zip", which=which)
    stored = arrays(folder)
    # Written out once more: the class ids are the hub's, and WNLI's own files write ids.
    labels = {
        "rte": ["entailment", "not_entailment"],
        "mnli": ["entailment", "neutral", "contradiction"],
        "wnli": ["0", "1"],
    }[task]
    expected = {
        str(i): labels[int(np.argmax(row))]
        for i, row in zip(stored[f"{split}/ids"], stored[f"{which}/{split}/logits"], strict=True)
    }
    assert dict(read(tmp_path / "s.zip")[name][1:]) == expected


def test_scores_are_clipped_and_otherwise_as_predicted(tmp_path: Path) -> None:
    # From below the scale to above it, in the order of the index.
    logits = np.linspace(-1, 6, 1379, dtype=np.float32)[:, None]
    folder = invented(tmp_path, "stsb", **{"best/test/logits": logits, "test/ids": np.arange(1379)})
    said = send(folder, to=tmp_path / "s.zip")
    found = [float(line[1]) for line in read(tmp_path / "s.zip")["STS-B"][1:]]
    assert found == pytest.approx(logits[:, 0].clip(0, 5), abs=1e-4)
    assert any(
        f"{((logits < 0) | (logits > 5)).sum()} of them clipped to 0..5" in line for line in said
    )


def test_what_no_run_predicts_is_named_with_its_command_and_left_out(tmp_path: Path) -> None:
    rte = invented(tmp_path, "rte")
    mnli = invented(tmp_path, "mnli", **{"best/ax/logits": None})
    said = "\n".join(send(rte, mnli, to=tmp_path / "s.zip"))
    assert set(read(tmp_path / "s.zip")) == {"RTE", "MNLI-m", "MNLI-mm"}
    assert (
        "MISSING QQP.tsv: no run of qqp among these: python -m dora.run data=hub task=qqp" in said
    )
    assert f"MISSING AX.tsv: the data of {mnli} lacked its test file" in said


def test_a_command_is_not_made_up_where_an_experiment_has_no_file_for_the_task(
    tmp_path: Path,
) -> None:
    rte = invented(tmp_path, "rte")
    change_record(rte, words=["experiment=of_somebody/rte"])
    said = "\n".join(send(rte, to=tmp_path / "s.zip"))
    assert "no run of qqp among these: python -m dora.run task=qqp …" in said


def test_ax_that_is_missing_says_how_to_get_it(tmp_path: Path) -> None:
    # AX came after training to `later`: only the best weights were kept to predict it.
    none = invented(tmp_path / "none", "mnli", **{"best/ax/logits": None, "last/ax/logits": None})
    later = invented(tmp_path / "later", "mnli", **{"last/ax/logits": None})
    said = "\n".join(send(none, to=tmp_path / "none.zip"))
    assert (
        "give the run's command again: it is predicted from the kept weights, without training"
        in said
    )
    said = "\n".join(send(later, to=tmp_path / "last.zip", which="last"))
    assert f"MISSING AX.tsv: the data of {later} got it after training" in said
    assert "only the best evaluation's are kept: use --score best" in said
    cut = {"ax/ids": np.arange(400), "best/ax/logits": np.zeros((400, 3)), "last/ax/logits": None}
    with pytest.raises(UserError, match=r"AX\.tsv takes 1,104 rows.* give the run's command again"):
        send(invented(tmp_path / "cut", "mnli", **cut), to=tmp_path / "cut.zip")
    send(later, to=tmp_path / "best.zip")
    assert "AX" in read(tmp_path / "best.zip")


def test_a_zip_that_another_command_writes_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, to = invented(tmp_path, "wnli"), tmp_path / "s.zip"
    zipped = submission.zipped

    def slowly(texts: Any) -> Any:
        to.write_text("the other's")
        return zipped(texts)

    monkeypatch.setattr(submission, "zipped", slowly)
    with pytest.raises(UserError, match=r"s\.zip is there already, and nothing is overwritten"):
        send(folder, to=to)
    assert to.read_text() == "the other's"


def test_placeholders_stand_only_where_asked_and_say_so(tmp_path: Path) -> None:
    rte = invented(tmp_path, "rte")
    said = send(rte, to=tmp_path / "s.zip", fill=True)
    files = read(tmp_path / "s.zip")
    assert {name: len(lines) - 1 for name, lines in files.items()} == OFFICIAL
    assert {line[1] for line in files["QNLI"][1:]} == {"entailment"}
    assert {line[1] for line in files["STS-B"][1:]} == {"0.0000"}
    assert len({line[1] for line in files["RTE"][1:]}) == 2  # predicted, not filled
    assert sum("its score will mean nothing" in line for line in said) == 10


def test_of_several_seeds_the_best_on_the_development_set_is_taken_only_when_asked(
    tmp_path: Path,
) -> None:
    one, two = invented(tmp_path, "rte", 1, score=0.6), invented(tmp_path, "rte", 2, score=0.7)
    with pytest.raises(UserError, match=r"2 runs of rte .*: name one of them, or .* --best"):
        send(one, two, to=tmp_path / "s.zip")
    send(one, two, to=tmp_path / "s.zip", best=True)
    send(two, two, to=tmp_path / "two.zip")  # a folder named twice is one run
    assert (tmp_path / "s.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_predictions_that_cannot_count_are_refused_all_at_once(tmp_path: Path) -> None:
    # Too few rows, one row again and again, values that are no numbers, sentences that are not
    # GLUE's.
    short = invented(
        tmp_path, "rte", **{"best/test/logits": np.zeros((40, 2)), "test/ids": np.arange(40)}
    )
    twice = invented(tmp_path, "wnli", **{"test/ids": np.zeros(146, int)})
    broken = invented(tmp_path, "cola", **{"best/test/logits": np.full((1063, 2), np.nan)})
    mini = invented(tmp_path, "sst2", data="mini")
    (tmp_path / "s.zip").touch()  # a fourth problem: nothing is overwritten
    with pytest.raises(UserError) as caught:
        send(short, twice, broken, to=tmp_path / "s.zip")
    said = "\n".join(caught.value.problems)
    assert "RTE.tsv takes 3,000 rows, numbered from 0, each once; these are 40 from 0 to 39" in said
    assert "WNLI.tsv takes 146 rows" in said
    assert "CoLA.tsv: 1063 of 1063 rows have logits that are not finite" in said
    assert "s.zip is there already" in said
    with pytest.raises(
        UserError, match="trained on data=mini, generated sentences that are not GLUE's"
    ):
        send(mini, to=tmp_path / "t.zip")
    assert not (tmp_path / "t.zip").exists()


def test_pickled_predictions_are_refused(tmp_path: Path) -> None:
    # Objects are stored as pickles, and unpickling runs code.
    folder = invented(tmp_path, "wnli", **{"best/test/logits": np.array([{}] * 146, dtype=object)})
    with pytest.raises(
        UserError, match=r"predictions.npz cannot be read: .*Object arrays cannot be loaded"
    ):
        send(folder, to=tmp_path / "s.zip")


def test_a_record_without_predictions_says_so(tmp_path: Path) -> None:
    folder = invented(tmp_path, "wnli")
    (folder / "predictions.npz").unlink()
    with pytest.raises(
        UserError, match=r"holds no predictions, its record was kept without them: train it again"
    ):
        send(folder, to=tmp_path / "s.zip")


def test_predictions_that_are_not_as_the_record_has_them_are_refused(tmp_path: Path) -> None:
    """A bit flipped in an array's name must not make its file one that nobody predicted."""
    wnli, rte = invented(tmp_path, "wnli"), invented(tmp_path, "rte")
    content = bytearray((rte / "predictions.npz").read_bytes())
    # The last mention is in the archive's directory, by which arrays are found.
    content[content.rindex(b"best/test/logits")] ^= 1
    (rte / "predictions.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"predictions\.npz is damaged or another's") as caught:
        send(wnli, rte, to=tmp_path / "s.zip")
    assert len(caught.value.problems) == 1
    send(wnli, to=tmp_path / "s.zip")


def test_a_run_whose_record_says_another_score_is_refused(tmp_path: Path) -> None:
    # Three of four predictions are right.
    labels = np.array([0, 1, 1, 1])
    dev = {"dev/labels": labels, "best/dev/logits": np.eye(2)[[0, 1, 1, 0]]}
    right, wrong = (
        invented(tmp_path / str(score), "rte", score=score, **dev) for score in (0.75, 0.5)
    )
    send(right, to=tmp_path / "s.zip")
    with pytest.raises(
        UserError, match=r"its best accuracy is 0\.5 in run\.json, its predictions\.npz gives 0\.75"
    ):
        send(wrong, to=tmp_path / "t.zip")


def test_rows_that_are_not_glues_are_said(tmp_path: Path) -> None:
    rte, wnli = invented(tmp_path, "rte"), invented(tmp_path, "wnli")
    assert not [line for line in send(rte, wnli, to=tmp_path / "whole.zip") if "GLUE has" in line]
    rows = {"revision": None, "rows": {"train": 2_490, "dev": 40}, "train": 64}
    change_record(rte, data=rows)
    said = send(rte, wnli, to=tmp_path / "s.zip")
    assert (
        "not GLUE's whole rows: RTE trained on 64 rows (GLUE has 2,490), scored on 40 rows (GLUE "
        "has 277)" in said
    )


def test_degenerate_predictions_and_mixed_systems_are_said(tmp_path: Path) -> None:
    # Two runs at two budgets, one of them with class 1 in every row.
    same = np.tile(np.float32([0, 1]), (146, 1))
    wnli, rte = invented(tmp_path, "wnli", **{"best/test/logits": same}), invented(tmp_path, "rte")
    config = json.loads((rte / "run.json").read_text())["config"]
    change_record(rte, config={**config, "budget": "r2"})
    said = "\n".join(send(wnli, rte, to=tmp_path / "s.zip"))
    assert "DEGENERATE: all 146 predictions are 'entailment'" in said
    assert "these are 2 systems, not one: m lora r2, m lora r8" in said


def test_a_trained_runs_predictions_pass_through_the_command(tmp_path: Path) -> None:
    glue = f"data.dir={small_glue(146)}"  # as many test rows as WNLI has
    run(small(tmp_path, "method=lora", "max_steps=2", glue))
    done = command("dora.submit", str(only_run(tmp_path)), "--to", str(tmp_path / "new" / "s.zip"))
    assert done.returncode == 3, done.stderr
    assert "WNLI.tsv" in done.stdout
    assert "embedded model tiny_roberta" in done.stdout
    assert f"written: {tmp_path / 'new' / 's.zip'}, 1 of 11 files" in done.stdout
    logits = arrays(only_run(tmp_path))["best/test/logits"]
    assert [line[1] for line in read(tmp_path / "new" / "s.zip")["WNLI"][1:]] == [
        str(i) for i in logits.argmax(1)
    ]
    done = command("dora.submit", str(only_run(tmp_path)), "--to", str(tmp_path / "new" / "s.zip"))
    assert done.returncode == 2
    assert "nothing written:" in done.stderr
    assert "is there already" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif("GLUE_DIR" not in os.environ, reason="GLUE_DIR names an official GLUE download")
def test_the_real_test_files_give_the_official_rows(tmp_path: Path) -> None:
    # Without MNLI, QNLI and QQP, whose test sets take minutes to predict on a CPU.
    tasks = [TASKS[name] for name in ("sst2", "mrpc", "stsb", "rte", "cola", "wnli")]
    words = ["method=lora", "data=dir", f"data.dir={os.environ['GLUE_DIR']}", "max_steps=3"]
    for task in tasks:
        run(configure(f"task={task.name}", *words, "threads=1", f"results={tmp_path}"))
    said = send(*sorted(tmp_path.glob("runs/*/*/*/*/*/*/s1")), to=tmp_path / "s.zip")
    found = {name: len(lines) - 1 for name, lines in read(tmp_path / "s.zip").items()}
    assert found == {task.folder: OFFICIAL[task.folder] for task in tasks}
    assert sum(line.startswith("MISSING") for line in said) == 5
