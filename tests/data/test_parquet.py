"""The hub's Parquet files give rows, and wrong ones give a message with file and reason."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from glue_files import hub_rte, problems, write, write_hub

from dora.data import reading
from dora.data.sources import read_hub
from dora.data.tasks import TASKS


def test_hub_test_labels_are_none_whatever_the_file_says(tmp_path):
    for label in (-1, 1):
        columns = {"sentence1": ["x"], "sentence2": ["y"], "label": [label], "idx": [4]}
        write_hub(hub_rte(tmp_path), "rte/test-00000-of-00001.parquet", columns)
        assert read_hub(TASKS["rte"], tmp_path)["test"].label is None


def test_hub_label_order_must_be_ours(tmp_path):
    columns = {"sentence1": ["e"], "sentence2": ["f"], "label": [0], "idx": [0]}
    swapped = ["not_entailment", "entailment"]
    write_hub(hub_rte(tmp_path), "rte/validation-00000-of-00001.parquet", columns, swapped)
    (found,) = problems(read_hub, TASKS["rte"], tmp_path)
    assert (
        "its labels are not_entailment, entailment; they must be entailment, not_entailment"
        in found
    )


def test_hub_layout_missing_splits_shards_and_columns_are_all_named(tmp_path):
    write(tmp_path, {"none/mnli/other.parquet": ""})
    # train and both dev splits
    assert len(problems(read_hub, TASKS["mnli"], tmp_path / "none")) == 3
    (hub_rte(tmp_path) / "rte/train-00000-of-00002.parquet").unlink()
    write_hub(
        tmp_path,
        "rte/validation-00000-of-00001.parquet",
        {"sentence1": ["e"], "label": [0], "idx": [0]},
    )
    write(tmp_path, {"rte/test-00000-of-00001.parquet": "<html>"})
    found = problems(read_hub, TASKS["rte"], tmp_path)
    for message, said in zip(
        found,
        ("fewer shards than the 1 found", "no column sentence2", "test-00000-of-00001"),
        strict=True,
    ):
        assert said in message


def test_hub_training_labels_must_be_in_range(tmp_path):
    columns = {"sentence1": ["e"], "sentence2": ["f"], "label": [-1], "idx": [0]}
    write_hub(hub_rte(tmp_path), "rte/validation-00000-of-00001.parquet", columns)
    (found,) = problems(read_hub, TASKS["rte"], tmp_path)
    assert "labels run from -1 to -1; they must lie in 0..1" in found


def test_a_copy_of_a_shard_does_not_pass_for_another_one(tmp_path):
    folder = hub_rte(tmp_path) / "rte"
    whole = (folder / "train-00000-of-00002.parquet").read_bytes()
    (folder / "train-00001-of-00002.parquet").unlink()
    (folder / "train-00000-copy-of-00002.parquet").write_bytes(whole)
    (found,) = problems(read_hub, TASKS["rte"], tmp_path)
    assert "train-00000-copy-of-00002.parquet: the name must end with -00000-of-00002" in found


DEV = "rte/validation-00000-of-00001.parquet"
ROW = {"sentence1": ["e"], "sentence2": ["f"], "label": [0], "idx": [0]}


def refused(folder, columns) -> str:
    (found,) = problems(read_hub, TASKS["rte"], write_hub(hub_rte(folder), DEV, columns))
    assert found.startswith(f"{folder / DEV}: ")
    assert found.endswith("(wanted: rte as nyu-mll/glue has it)")
    return found


@pytest.mark.parametrize(
    ("name", "column", "said"),
    [
        ("label", pa.array([0.5]), "truncated"),
        ("label", pa.array([float("nan")]), "truncated"),
        ("label", pa.array([float("inf")]), "truncated"),
        ("label", pa.array(["entailment"]), "Failed to parse"),
        ("label", pa.array([["entailment"]]), "cast"),
        ("idx", pa.array([2**63], pa.uint64()), "not in range"),
        ("idx", pa.array([1e30]), "truncated"),
        ("idx", pa.array(["１"]), "Failed to parse"),
        ("sentence1", pa.array([7]), "column sentence1 holds int64, not text"),
        ("sentence2", pa.array([b"\xff"]), "column sentence2 holds binary, not text"),
        ("sentence2", pa.array([["f"]]), "not text"),
        ("sentence2", pa.array([b"\xff"]).view(pa.string()), "can't decode byte 0xff"),
        ("sentence2", pa.array([None], pa.string()), "rows with an empty cell"),
    ],
)
def test_a_value_that_would_not_stay_what_it_is_is_refused(tmp_path, name, column, said):
    assert said in refused(tmp_path, {**ROW, name: column})


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 5.5, -1.0])
def test_a_score_that_is_no_number_from_0_to_5_is_refused(tmp_path, score):
    for split in ("train", "validation"):
        columns = {**ROW, "label": pa.array([score], pa.float32())}
        write_hub(tmp_path, f"stsb/{split}-00000-of-00001.parquet", columns)
    assert "labels run from" in problems(read_hub, TASKS["stsb"], tmp_path)[0]


@pytest.mark.parametrize(
    "column", [pa.array(["e"], pa.large_string()), pa.array(["e"]).dictionary_encode()]
)
def test_other_kinds_of_text_are_read(tmp_path, column):
    write_hub(hub_rte(tmp_path), DEV, {**ROW, "sentence1": column, "label": pa.array([1.0])})
    dev = read_hub(TASKS["rte"], tmp_path)["dev"]
    assert (dev.first, dev.label.tolist()) == (["e"], [1])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "is a web page or a Git LFS pointer",
        ),
        (b"<!DOCTYPE html>\n<html>404</html>\n", "is a web page or a Git LFS pointer"),
        (b"", "Parquet file size is 0 bytes"),
        (b"PAR1 and then nothing of the kind", "Parquet magic bytes not found"),
        (b"PAR1" + b"\xff" * 60 + b"\x20\x00\x00\x00PAR1", "hrift"),
    ],
)
def test_a_file_that_is_no_table_is_named_with_the_way_out(tmp_path, content, said):
    write(hub_rte(tmp_path), {DEV: content})
    (found,) = problems(read_hub, TASKS["rte"], tmp_path)
    assert str(tmp_path / DEV) in found
    assert said in found
    assert "fetch it again" in found or "nyu-mll/glue has it" in found


@pytest.mark.parametrize("cut", [5, 40, 200])
def test_a_file_that_is_cut_short_is_named(tmp_path, cut):
    hub_rte(tmp_path)
    (tmp_path / DEV).write_bytes((tmp_path / DEV).read_bytes()[:-cut])
    assert str(tmp_path / DEV) in problems(read_hub, TASKS["rte"], tmp_path)[0]


@pytest.mark.parametrize(
    "note", ["[]", '{"info": 3}', '{"info": {"features": {"label": {"names": 7}}}}', "{"]
)
def test_a_note_of_columns_in_another_shape_is_named(tmp_path, note):
    table = pa.table(ROW).replace_schema_metadata({"huggingface": note})
    pq.write_table(table, hub_rte(tmp_path) / DEV)
    (found,) = problems(read_hub, TASKS["rte"], tmp_path)
    assert f"{tmp_path / DEV}: its own note of its columns cannot be read" in found


@pytest.mark.parametrize("rows", [1, 5000])
def test_a_bomb_is_refused_by_what_it_declares_or_by_what_comes_out(tmp_path, monkeypatch, rows):
    # One large text declares its size. A dictionary that repeats a text does not, and is stopped
    # once too much has come out.
    monkeypatch.setattr(reading, "FILE_BYTES", 1_000_000)
    long = ["x" * (2_000_000 if rows == 1 else 1000)] * rows
    columns = {"sentence1": long, "sentence2": long, "label": [0] * rows, "idx": list(range(rows))}
    write_hub(hub_rte(tmp_path), DEV, columns)
    assert (tmp_path / DEV).stat().st_size < 300_000
    (found,) = problems(read_hub, TASKS["rte"], tmp_path)
    assert f"{tmp_path / DEV} holds " in found
    assert "more than the 1,000,000 that a file of GLUE may have" in found


def test_categories_count_once_however_often_they_are_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "FILE_BYTES", 3_000_000)
    texts = pa.array([f"{i:0200}" for i in range(5000)]).dictionary_encode()
    columns = {
        "sentence1": texts,
        "sentence2": texts,
        "label": [0] * 5000,
        "idx": list(range(5000)),
    }
    assert len(read_hub(TASKS["rte"], write_hub(hub_rte(tmp_path), DEV, columns))["dev"]) == 5000


def test_a_pipe_is_not_waited_for(tmp_path):
    path = hub_rte(tmp_path) / "rte/validation-00000-of-00001.parquet"
    path.unlink()
    os.mkfifo(path)
    (found,) = problems(read_hub, TASKS["rte"], tmp_path)
    assert f"{path}: it is a pipe, not a file" in found
