"""Problems that are found before a model is loaded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dora.configuration.method_choice import packaged_names
from dora.data.mini import mini
from dora.data.sources import fingerprint
from dora.data.tasks import TASKS
from dora.errors import UserError
from dora.preparing.prepare import prepare, split_rows
from dora.preparing.rows import heldout_problems, read_rows
from folders import edit, model_folder, prepared
from runs import configure, small, small_glue, write_tsv


# A limit cuts the rows after a tenth was held out, so it changes nothing here.
@pytest.mark.parametrize("limit", [None, 1, 5])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_fewer_rows_than_can_be_held_out_from_are_refused(n: int, limit: int | None) -> None:
    with pytest.raises(
        UserError, match=rf"needs at least 10 training rows, .*, and there are {n}: use select=dev"
    ):
        split_rows(n, limit, "heldout")
    assert len(split_rows(n, limit, "dev")[0]) == min(n, limit or n)


@pytest.mark.parametrize(
    ("n", "limit", "sizes"),
    [
        (10, None, (9, 1)),
        (19, None, (18, 1)),
        (20, 3, (3, 2)),
        (20_001, None, (18_001, 2_000)),
        (30_000, None, (28_000, 2_000)),  # at most so many
    ],
)
def test_a_tenth_of_enough_rows_is_held_out(
    n: int, limit: int | None, sizes: tuple[int, int]
) -> None:
    # The tenth is taken of all rows, and the limit cuts the rest.
    train, heldout = split_rows(n, limit, "heldout")
    assert heldout is not None
    assert (len(train), len(heldout)) == sizes
    assert not set(train) & set(heldout)


def test_rows_are_drawn_by_one_seed_for_every_run_and_sorted() -> None:
    drawn = np.random.default_rng(0).permutation(30)
    train, heldout = split_rows(30, 5, "heldout")
    assert heldout is not None
    assert heldout.tolist() == sorted(drawn[:3])
    assert train.tolist() == sorted(drawn[3:8])


def test_too_few_rows_to_hold_out_from_come_with_every_other_problem(tmp_path: Path) -> None:
    folder = tmp_path / "RTE"
    folder.mkdir()
    for split in ("train", "dev"):
        write_tsv(folder / f"{split}.tsv", TASKS["rte"], mini(TASKS["rte"])[split], 9)
    words = "task=rte", "data=dir", f"data.dir={tmp_path}", "select=heldout"
    with pytest.raises(UserError) as caught:
        prepare(configure(*words, "method=lora", "budget=7"))
    about_budget, about_rows = caught.value.problems  # the configuration's come first
    assert "budget=7" in about_budget
    assert "there are 9: use select=dev" in about_rows


def test_a_data_folder_that_cannot_be_read_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "RTE").mkdir()
    for name in ("train.tsv", "test.tsv"):
        (tmp_path / "RTE" / name).symlink_to(small_glue() / "RTE" / name)
    (tmp_path / "RTE" / "dev.tsv").symlink_to("dev.tsv")  # to itself: exists, and opens never
    with pytest.raises(
        UserError, match=r"RTE/dev.tsv cannot be read \(Too many levels of symbolic links\)"
    ):
        prepare(configure("task=rte", "method=lora", "data=dir", f"data.dir={tmp_path}"))


def test_positions_of_a_roberta_begin_after_its_padding(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "roberta")
    # 62 of 64: two positions come before the first token's.
    prepared(folder, tmp_path, ("method=lora", "budget=r1", "max_length=62"))
    edit(folder / "config.json", pad_token_id=20)
    with pytest.raises(UserError, match="max_length=62 is longer than this model's 43 positions"):
        prepared(folder, tmp_path, ("method=lora", "budget=r1", "max_length=62"))


def test_ax_is_read_with_mnli_and_is_no_part_of_its_fingerprint() -> None:
    mnli = TASKS["mnli"]
    found = read_rows(configure("task=mnli", "data=mini").data, mnli)
    assert "ax" in found.splits
    assert found.fingerprint == fingerprint(mini(mnli))


@pytest.mark.parametrize(("labels", "problems"), [([0, 1, 1], 0), ([1, 1, 0], 1)])
def test_a_correlation_needs_two_labels_among_the_rows_held_out(
    labels: list[int], problems: int
) -> None:
    rows = replace(mini(TASKS["cola"])["train"], label=np.array(labels))
    found = heldout_problems(configure("task=cola"), rows, np.array([0, 1]))
    assert len(found) == problems


@pytest.mark.parametrize(("task", "alike"), [("stsb", True), ("rte", False)])
def test_rows_that_no_score_can_be_had_on_are_not_held_out(
    task: str, alike: bool, tmp_path: Path
) -> None:
    (tmp_path / TASKS[task].folder).mkdir()
    for split, rows in mini(TASKS[task]).items():
        name = TASKS[task].splits[split].replace("validation", "dev")
        write_tsv(tmp_path / TASKS[task].folder / f"{name}.tsv", TASKS[task], rows, 12)
    # A tenth of 12 rows is one row, and a correlation needs two with different labels.
    words = f"task={task}", "method=lora", "select=heldout", "max_steps=6"
    config = configure(*words, "data=dir", f"data.dir={tmp_path}")
    if not alike:  # an accuracy is defined on one row
        prepare(config)
        return
    with pytest.raises(
        UserError, match=r"holds out 1 rows here, whose labels are all alike: stsb's pearson"
    ):
        prepare(config)


# 3,500 parameters are fewer components than matrices, some of which have none then.
@pytest.mark.parametrize(
    ("method", "budget"),
    [*((m, "r2") for m in packaged_names()), ("lora", "3500"), ("nora", "3500")],
)
def test_a_sweep_waits_for_the_directory_that_each_seed_trains_in(
    method: str, budget: str, tmp_path: Path
) -> None:
    config = small(tmp_path, f"method={method}", f"budget={budget}", "max_steps=120")
    one, three = (prepare(replace(config, seed=seed)) for seed in (1, 3))
    # A sweep prepares its first seed alone, and finds the directories of the others from that.
    assert one.of_seed(3).folder == three.folder
    # Tables take runs of one key for seeds of one configuration.
    assert one.folder.parent == three.folder.parent


def test_a_rank_that_stands_for_other_parameters_than_loras_names_loras(tmp_path: Path) -> None:
    def notes(*words: str) -> str | None:
        plan = prepare(small(tmp_path, "max_steps=120", *words)).plan
        assert plan is not None
        return plan.note

    loras = prepare(small(tmp_path, "method=lora", "budget=r2")).plan
    assert loras is not None
    assert loras.note is None
    params = loras.params(loras.start)
    assert notes("method=flat_lora", "budget=r2") is None
    for method in ("dora", "weight_decomposed", "houlsby"):
        line = f"r2 is not LoRA's number of parameters; that is budget={params}"
        assert notes(f"method={method}", "budget=r2") == line
        assert notes(f"method={method}", f"budget={params}") is None
    # One component and the norms of every matrix are more than LoRA's r1.
    assert notes("method=weight_decomposed", "budget=r1") is None


def test_rows_that_were_read_before_are_read_again_once_their_files_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(place: object) -> tuple[int, str | None]:
        """Returns the number of training rows and their fingerprint, as a notebook gets them."""
        found = prepare(small(tmp_path / "results", "method=lora", f"data.dir={place}"))
        return len(found.rows["train"]), found.fingerprints["data"]

    places = [tmp_path / name / "GLUE" for name in "ab"]
    for place in places:
        shutil.copytree(small_glue() / "WNLI", place / "WNLI")
    number, before = read(places[0])
    train = places[0] / "WNLI" / "train.tsv"
    train.write_text("\n".join(train.read_text().splitlines()[:61]) + "\n")
    assert (number, read(places[0])[0]) == (97, 60)
    # One name, which means another folder after a change of the working directory.
    numbers = []
    for place in places:
        monkeypatch.chdir(place.parent)
        numbers.append(read("GLUE")[0])
    assert numbers == [60, 97]
    assert read(places[1]) == (97, before)
