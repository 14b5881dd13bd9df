"""The hub's Parquet files: what is read from them, and what a user hears when they are wrong."""

from glue_files import hub_rte, problems, write, write_hub

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
    assert "its labels are not_entailment, entailment; they must be entailment, not_entailment" in found


def test_hub_layout_missing_splits_shards_and_columns_are_all_named(tmp_path):
    (tmp_path / "none").mkdir()
    assert len(problems(read_hub, TASKS["mnli"], tmp_path / "none")) == 3  # train and both dev splits
    (hub_rte(tmp_path) / "rte/train-00000-of-00002.parquet").unlink()
    write_hub(
        tmp_path, "rte/validation-00000-of-00001.parquet", {"sentence1": ["e"], "label": [0], "idx": [0]}
    )
    write(tmp_path, {"rte/test-00000-of-00001.parquet": "<html>"})
    found = problems(read_hub, TASKS["rte"], tmp_path)
    for message, said in zip(
        found, ("fewer shards than the 1 found", "no column sentence2", "test-00000-of-00001"), strict=True
    ):
        assert said in message


def test_hub_training_labels_must_be_in_range(tmp_path):
    columns = {"sentence1": ["e"], "sentence2": ["f"], "label": [-1], "idx": [0]}
    write_hub(hub_rte(tmp_path), "rte/validation-00000-of-00001.parquet", columns)
    (found,) = problems(read_hub, TASKS["rte"], tmp_path)
    assert "labels run from -1 to -1; they must lie in 0..1" in found
