"""The files of a task are found in folders, in zips, and in layouts that are not quite GLUE's."""

import pytest
from glue_files import RTE, SST2, problems, write, write_zip

from dora.data.sources import read_dir
from dora.data.tasks import AX, TASKS


@pytest.mark.parametrize(
    "place", ["AX.tsv", "diagnostic.tsv", "AX/AX.tsv", "diagnostic/diagnostic.tsv"]
)
def test_ax_wherever_the_official_download_puts_it(tmp_path, place):
    rows = read_dir(AX, write(tmp_path, {place: "index\tsentence1\tsentence2\n0\tp\th\n"}))["ax"]
    assert (rows.first, rows.second, rows.label) == (["p"], ["h"], None)


def test_ax_in_a_zip(tmp_path):
    text = "index\tsentence1\tsentence2\n0\tp\th\n"
    assert len(read_dir(AX, write_zip(tmp_path, "AX.zip", {"AX/AX.tsv": text}))["ax"]) == 1


def test_zip_that_is_not_a_zip(tmp_path):
    (found,) = problems(read_dir, TASKS["rte"], write(tmp_path, {"RTE.zip": "<html>404</html>"}))
    assert f"{tmp_path / 'RTE.zip'} is not a zip archive" in found


def test_damaged_zip_is_named(tmp_path):
    write_zip(tmp_path, "SST-2.zip", SST2)
    stored = (tmp_path / "SST-2.zip").read_bytes()
    # The checksum of the changed member does not fit.
    (tmp_path / "SST-2.zip").write_bytes(stored.replace(b"fine film", b"vile film"))
    (found,) = problems(read_dir, TASKS["sst2"], tmp_path)
    assert "SST-2.zip/SST-2/train.tsv cannot be read" in found


def inside(*names: str) -> dict[str, str]:
    """Returns RTE's files under other folder names, with equal files under each name."""
    return {path.replace("RTE/", name): text for name in names for path, text in RTE.items()}


def rows(folder):
    return len(read_dir(TASKS["rte"], folder)["train"])


@pytest.mark.parametrize("name", ["", "data/", "glue_data/RTE/", "RTE/RTE/", "a/b/rte/", "./RTE/"])
def test_a_zip_of_another_shape_is_read_where_one_place_can_be_meant(tmp_path, name):
    other = {"glue_data/WNLI/train.tsv": "x", "__MACOSX/RTE/._train.tsv": "x", "README": "x"}
    assert rows(write_zip(tmp_path, "RTE.zip", {**inside(name), **other})) == 2


@pytest.mark.parametrize("name", ["RTE.zip", "download/RTE.zip", "anything.zip"])
@pytest.mark.parametrize("shape", ["RTE/", ""])
def test_a_zip_in_a_zip_is_read(tmp_path, name, shape):
    write_zip(tmp_path, "inner", inside(shape))
    write_zip(tmp_path, "RTE.zip", {name: (tmp_path / "inner").read_bytes(), "README": "x"})
    assert rows(tmp_path) == 2


@pytest.mark.parametrize("name", ["rte", "Rte", "RTE/RTE", "RTE/data"])
def test_a_folder_spelled_or_nested_in_another_way_is_read(tmp_path, name):
    assert rows(write(tmp_path, inside(f"{name}/"))) == 2


@pytest.mark.parametrize(("task", "name"), [("sst2", "SST2"), ("sst2", "sst_2"), ("cola", "cola")])
def test_a_tasks_short_name_is_its_folder_too(tmp_path, task, name):
    row = {"cola": "gj04\t1\t\tx\n"}.get(task, "sentence\tlabel\nx\t1\n")
    folder = write(tmp_path, {f"{name}/train.tsv": row, f"{name}/dev.tsv": row})
    assert len(read_dir(TASKS[task], folder)["train"]) == 1


@pytest.mark.parametrize(
    ("task", "older", "newer"),
    [("qnli", "QNLI.zip", "QNLIv2.zip"), ("qqp", "QQP.zip", "QQP-clean.zip")],
)
def test_of_two_archives_the_one_of_glues_script_is_read(tmp_path, task, older, newer):
    head, row = "index\tquestion\tsentence\tlabel\n0", "x\tentailment"
    if task == "qqp":
        head, row = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2", "x\t1"
    for name in (older, newer):
        files = {
            f"{TASKS[task].folder}/{split}.tsv": f"{head}\t{name}\t{row}\n"
            for split in ("train", "dev")
        }
        write_zip(tmp_path, name, files)
    assert read_dir(TASKS[task], tmp_path)["train"].first == [newer]


def test_a_zip_spelled_in_another_way_is_read(tmp_path):
    assert rows(write_zip(tmp_path, "rte.ZIP", RTE)) == 2


@pytest.mark.parametrize("names", [("one/", "two/"), ("a/RTE/", "b/rte/"), ("", "data/")])
def test_several_places_that_can_be_meant_are_named(tmp_path, names):
    (found,) = problems(rows, write_zip(tmp_path, "RTE.zip", inside(*names)))
    assert "RTE.zip" in found
    assert "RTE files in 2 folders" in found
    assert all((name.rstrip("/") or ".") in found for name in names)


def test_several_spellings_are_named(tmp_path):
    (found,) = problems(rows, write(tmp_path, inside("rte/", "Rte/")))
    assert "Rte and rte: name the one that counts RTE" in found


@pytest.mark.parametrize(
    "names", [{"WNLI/train.tsv": "x"}, {"notes.txt": "x", "RTE/train.jsonl": "{}"}, {}]
)
def test_a_zip_without_the_tasks_files_says_what_is_inside(tmp_path, names):
    (found,) = problems(rows, write_zip(tmp_path, "RTE.zip", names))
    assert "holds no RTE data" in found
    assert "RTE.zip" in found
    assert all(name in found for name in names)


def test_a_folder_without_the_tasks_files_says_what_is_inside(tmp_path):
    (found,) = problems(rows, write(tmp_path, {f"RTE/{n}.parquet": "x" for n in range(20)}))
    assert "0.parquet, 1.parquet" in found
    assert "and 12 more" in found


def test_a_diagnostic_zip_without_ax_says_what_is_inside(tmp_path):
    (found,) = problems(read_dir, AX, write_zip(tmp_path, "AX.zip", {"AX/readme.txt": "x"}))
    assert "AX/readme.txt" in found
    assert read_dir(AX, write(tmp_path / "none", {"AX/readme.txt": "x"})) == {}


def test_a_data_folder_that_is_a_file_is_no_folder(tmp_path):
    write_zip(tmp_path, "RTE.zip", RTE)
    (found,) = problems(rows, tmp_path / "RTE.zip")
    assert "is not a folder; it must be" in found
