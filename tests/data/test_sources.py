"""GLUE's two sources give equal rows and one fingerprint, and name everything that is missing."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from glue_files import GLUE, RTE, hub_rte, problems, real_data, write, write_hub, write_zip

from dora.data.sources import fingerprint, read_dir, read_hub
from dora.data.tasks import AX, TASKS, Rows


def test_all_missing_files_in_one_error(tmp_path):
    found = problems(
        read_dir, TASKS["sst2"], write_zip(tmp_path, "SST-2.zip", {"SST-2/test.tsv": "index\n"})
    )
    for split, message in zip(("train", "dev", "test"), found, strict=True):
        assert f"SST-2.zip/SST-2/{split}.tsv" in message


def test_empty_and_missing_folder_name_what_was_wanted(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        (found,) = problems(read_dir, TASKS["rte"], folder)
        assert all(
            word in found for word in (f"data.dir={folder}", "RTE.zip", "data=hub", "data=mini")
        )


def test_an_official_download_read_as_the_hubs_copy_names_the_way_out(tmp_path):
    (found,) = problems(read_hub, TASKS["rte"], write(tmp_path, RTE))
    assert found.startswith(f"data.dir={tmp_path} holds no rte/*.parquet; with data=hub it must be")
    assert found.endswith("write data=dir")
    (found,) = problems(read_hub, TASKS["rte"], tmp_path / "nowhere")
    assert found.startswith(f"data.dir={tmp_path / 'nowhere'} is not a folder; ")


def test_fingerprint_is_that_of_the_content_not_of_the_file(tmp_path):
    task = TASKS["rte"]
    zipped = write_zip(tmp_path, "RTE.zip", RTE)
    unpacked, hub = write(tmp_path / "tsv", RTE), hub_rte(tmp_path / "hub")
    prints = {
        fingerprint(read_dir(task, zipped)),
        fingerprint(read_dir(task, unpacked)),
        fingerprint(read_hub(task, hub)),
    }
    assert len(prints) == 1
    assert re.fullmatch("[0-9a-f]{64}", prints.pop())


def test_fingerprint_tells_contents_apart():
    def rows(first=("a", "b"), second=None, label=(0, 1), idx=(0, 1)) -> Rows:
        return Rows(list(first), second, None if label is None else np.array(label), np.array(idx))

    different = [
        {"train": rows()},
        {"dev": rows()},
        {"train": rows(first=("ab", ""))},
        {"train": rows(second=["", ""])},
        {"train": rows(label=None)},
        {"train": rows(label=(1, 0))},
        {"train": rows(label=(0.0, 1.0))},
        {"train": rows(idx=(1, 0))},
    ]
    assert len({fingerprint(d) for d in different}) == len(different)
    assert fingerprint({"a": rows(), "b": rows()}) == fingerprint({"b": rows(), "a": rows()})


def test_sts_b_scores_are_the_same_bits_from_both_sources(tmp_path):
    head = "index\tsentence1\tsentence2\tscore\n0\ta\tb\t"
    tsv = write(
        tmp_path, {"STS-B/train.tsv": head + "3.8\n", "STS-B/dev.tsv": head + "1.53333333333333\n"}
    )
    for name, value in (("train", 3.8), ("validation", 1.53333333333333)):
        columns = {
            "sentence1": ["a"],
            "sentence2": ["b"],
            "label": pa.array([value], pa.float32()),
            "idx": [0],
        }
        write_hub(tmp_path, f"stsb/{name}-00000-of-00001.parquet", columns)
    hub, tsv = read_hub(TASKS["stsb"], tmp_path), read_dir(TASKS["stsb"], tsv)
    assert hub["train"].label.tolist() == tsv["train"].label.tolist() == pytest.approx([3.8])
    assert fingerprint(hub) == fingerprint(tsv)


def test_import_stays_light():
    heavy = "{'datasets', 'huggingface_hub', 'pyarrow', 'sklearn', 'scipy', 'torch'}"
    code = f"import sys, dora.data.sources; print(*{heavy}.intersection(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"


def readme_table() -> dict[tuple[str, str], tuple[int, str]]:
    """Reads the table "Rows and labels": (zip, file) -> (official rows, labels)."""
    text = (GLUE / "README.md").read_text() if (GLUE / "README.md").is_file() else ""
    found = re.findall(r"^\| `(\S+)` \| (\S+\.tsv) \| \d+ \| (\d+) \| (.+) \|$", text, re.MULTILINE)
    return {(archive, file): (int(rows), labels) for archive, file, rows, labels in found}


@real_data
def test_readme_table_was_found():
    assert len(readme_table()) == 22


def described(task, label: np.ndarray | None) -> str:
    """Describes a label column in the words of the README's table."""
    if label is None:
        return "no labels"
    if task.regression:
        return f"{label.min():.3f}..{label.max():.3f}, mean {label.mean():.3f}"
    names = task.name in ("mnli", "qnli", "rte")
    counts = {
        task.labels[i] if names else str(i): int((label == i).sum()) for i in range(task.outputs)
    }
    return ", ".join(f"{name}: {counts[name]}" for name in sorted(counts))


@real_data
@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "stsb", "rte", "wnli"])
def test_real_rows_and_labels_are_those_of_the_readme(name):
    task = TASKS[name]
    for split, rows in read_dir(task, GLUE).items():
        want = readme_table()[f"{task.folder}.zip", f"{split}.tsv"]
        assert (len(rows), described(task, rows.label)) == want
        assert rows.idx.tolist() == list(range(len(rows)))


@real_data
def test_real_ax():
    rows = read_dir(AX, GLUE)["ax"]
    assert len(rows) == readme_table()["AX.tsv", "AX.tsv"][0]
    assert rows.label is None
    assert rows.first[0] == "The cat sat on the mat."


@real_data
@pytest.mark.parametrize(
    ("name", "archive", "split", "stand_ins"),
    [
        ("qnli", "partial/QNLI-dev-test.zip", "dev", ["train"]),
        ("mnli", "partial/MNLI-dev_matched.zip", "dev_matched", ["train", "dev_mismatched"]),
    ],
)
def test_real_partial_tasks(tmp_path, name, archive, split, stand_ins):
    # The first rows of an available split stand in for the splits that nobody can get.
    task = TASKS[name]
    with zipfile.ZipFile(GLUE / archive) as files:
        files.extractall(tmp_path)
        head = b"".join(files.read(f"{task.folder}/{split}.tsv").splitlines(keepends=True)[:4])
    rows = read_dir(task, write(tmp_path, {f"{task.folder}/{s}.tsv": head for s in stand_ins}))
    assert (len(rows["dev"]), described(task, rows["dev"].label)) == readme_table()[
        archive, f"{split}.tsv"
    ]


@real_data
def test_real_zip_and_unpacked_have_one_fingerprint(tmp_path):
    with zipfile.ZipFile(GLUE / "CoLA.zip") as archive:
        archive.extractall(tmp_path)
    task = TASKS["cola"]
    assert fingerprint(read_dir(task, tmp_path)) == fingerprint(read_dir(task, GLUE))
