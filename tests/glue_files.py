"""Small GLUE downloads as folders, zips and Parquet files, for the tests of their readers."""

import os
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dora.errors import UserError

# A full download, for the tests that compare with the real files; they are skipped without one.
GLUE = Path(os.environ.get("GLUE_DIR", Path(__file__).parents[2] / "shared" / "glue"))
real_data = pytest.mark.skipif(
    not (GLUE / "README.md").is_file(), reason="no GLUE download (GLUE_DIR)"
)

SST2 = {
    "SST-2/train.tsv": "sentence\tlabel\nfine film \t1\nbad \t0\n",
    "SST-2/dev.tsv": "sentence\tlabel\nso so\t0\n",
    "SST-2/test.tsv": "index\tsentence\n7\twho knows\n",
}
RTE = {
    "RTE/train.tsv": (
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n1\tc\td\tentailment\n"
    ),
    "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\te\tf\tentailment\n",
}


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Writes files by their names below `folder`, and returns the folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def write_zip(folder: Path, name: str, files: dict[str, str | bytes]) -> Path:
    """Writes files into an archive `name` in `folder`, and returns the folder."""
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return folder


def write_hub(
    folder: Path, name: str, columns: dict[str, list], labels: list[str] | None = None
) -> Path:
    """Writes a Parquet file; `labels` become the ClassLabel names of the hub's own metadata."""
    table = pa.table(columns)
    if labels:
        import datasets  # late: it takes a second, and few tests need it

        features = datasets.Features.from_arrow_schema(table.schema)
        features["label"] = datasets.ClassLabel(names=labels)
        table = table.cast(features.arrow_schema)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name)
    return folder


def hub_rte(folder: Path) -> Path:
    """Writes the contents of `RTE` in the hub's layout, the training split in two shards."""
    names = ["entailment", "not_entailment"]
    train = (
        {"sentence1": ["a"], "sentence2": ["b"], "label": [1], "idx": [0]},
        {"sentence1": ["c"], "sentence2": ["d"], "label": [0], "idx": [1]},
    )
    for i, shard in enumerate(train):
        write_hub(folder, f"rte/train-{i:05}-of-00002.parquet", shard, names)
    dev = {"sentence1": ["e"], "sentence2": ["f"], "label": [0], "idx": [0]}
    return write_hub(folder, "rte/validation-00000-of-00001.parquet", dev, names)


def problems(call, *arguments) -> list[str]:
    """Calls a function that must raise UserError, and returns its problems."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return list(caught.value.problems)
