"""One split in the hub's layout: Parquet files whose columns, types and sizes are checked before they are rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dora.data.reading import check_size, readable
from dora.data.tasks import Rows, Task, labelled
from dora.data.tsv import to_rows
from dora.errors import UserError

GLUE_REPO = "nyu-mll/glue"
GLUE_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"

_BATCH = 1024  # rows read at a time: between two batches the size of what came out is checked


def read_parquet(task: Task, split: str, shards: Sequence[Path]) -> Rows:
    """The rows of one split from its files in order. Raises UserError with the file, what is wrong and the way out."""
    import pyarrow as pa

    wanted = [*task.text, "label", "idx"]
    try:
        with readable(shards[0]):
            if not shards[0].stem.endswith(f"-{len(shards):05}"):
                raise ValueError(
                    f"the name tells of more or fewer shards than the {len(shards)} found; fetch it again"
                )
            tables = [_read(shard, wanted) for shard in shards]
            _check_names(task, tables[0].schema.metadata or {})
            columns = {
                name: np.concatenate([_column(table[name], name, task) for table in tables])
                for name in wanted
            }
            labels, top = columns["label"], 5 if task.regression else len(task.labels) - 1
            if not len(labels):
                raise ValueError("it has no rows")
            if labelled(split) and not ((labels >= 0) & (labels <= top)).all():
                raise ValueError(
                    f"labels run from {labels.min()} to {labels.max()}; they must lie in 0..{top}"
                )
            texts = [columns[name].tolist() for name in task.text]
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{shards[0]}: {error} (wanted: {task.name} as {GLUE_REPO} has it)") from error
    return to_rows(task, split, texts, labels, columns["idx"])


def _read(shard: Path, wanted: list[str]) -> Any:
    """The wanted columns as a table, read in pieces, so that no more than GLUE's size ever comes out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with shard.open("rb") as file:
        if file.read(64).startswith((b"<", b"version https://git-lfs")):
            raise ValueError("it is a web page or a Git LFS pointer; fetch it again (git lfs pull)")
    with pq.ParquetFile(shard) as file:
        if missing := [name for name in wanted if name not in file.schema_arrow.names]:
            raise ValueError(f"no column {', '.join(missing)} among {', '.join(file.schema_arrow.names)}")
        meta = file.metadata
        check_size(shard, sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)))
        batches, size = [], 0
        for batch in file.iter_batches(_BATCH, columns=wanted):
            batches.append(batch)
            check_size(shard, size := size + batch.nbytes)
        if any(batch.column(name).null_count for batch in batches for name in wanted):
            raise ValueError("it has rows with an empty cell")
        schema = pa.schema([file.schema_arrow.field(name) for name in wanted], file.schema_arrow.metadata)
        return pa.Table.from_batches(batches, schema)


def _column(column: Any, name: str, task: Task) -> np.ndarray:
    """A column as texts, class ids, scores or row numbers; ValueError where it holds anything else."""
    import pyarrow as pa

    if name not in task.text:
        # Raises where a value would not stay what it is: 0.5 as a class, or an id beyond 64 bits.
        number = pa.float64() if name == "label" and task.regression else pa.int64()
        return np.asarray(column.cast(number))
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"column {name} holds {kind}, not text")
    texts = np.empty(len(column), object)
    texts[:] = column.to_pylist()
    return texts


def _check_names(task: Task, metadata: dict[bytes, bytes]) -> None:
    """Raises ValueError where the file's own label names are not `Task.labels`, in that order."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        names = tuple(features.get("label", {}).get("names", task.labels))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"its own note of its columns cannot be read ({error})") from error
    if names != task.labels:
        raise ValueError(
            f"its labels are {', '.join(map(str, names))}; they must be {', '.join(task.labels)}"
        )
