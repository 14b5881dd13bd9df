"""Reader of one split in the hub's Parquet files that checks columns, types and sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dora.data.reading import check_size, is_no_data, readable
from dora.data.tasks import Rows, Task, labelled
from dora.data.tsv import to_rows
from dora.errors import UserError

GLUE_REPO = "nyu-mll/glue"
GLUE_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"

_BATCH = 1024  # rows read at a time; the unpacked size is checked after each batch


def read_parquet(task: Task, split: str, shards: Sequence[Path]) -> Rows:
    """Reads the rows of one split from its files, in order.

    Raises UserError with the file, the reason and the way out.
    """
    tables = []
    for number, shard in enumerate(shards):
        with _named(task, shard):
            # A file's name ends with its place and the number of files, as train-00000-of-00002. By
            # their number alone, a copy of one could take the place of another.
            end = f"-{number:05}-of-{len(shards):05}"
            if not shard.stem.endswith(end):
                raise ValueError(
                    f"the name must end with {end}: there are more or fewer shards than the "
                    f"{len(shards)} found, or this is a copy of one; fetch it again"
                )
            tables.append(_read(task, shard))
    with _named(task, shards[0]):
        columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        labels, top = columns["label"], 5 if task.regression else len(task.labels) - 1
        if not len(labels):
            raise ValueError("it has no rows")
        # NaN fails both comparisons, so it is refused as well.
        if labelled(split) and not ((labels >= 0) & (labels <= top)).all():
            raise ValueError(
                f"labels run from {labels.min()} to {labels.max()}; they must lie in 0..{top}"
            )
    return to_rows(
        task, split, [columns[name].tolist() for name in task.text], labels, columns["idx"]
    )


@contextmanager
def _named(task: Task, shard: Path) -> Iterator[None]:
    """Turns errors of reading `shard`, and ValueError for its content, into UserError."""
    # Imported late, here and below: the import is slow, and only data=hub needs it.
    import pyarrow as pa

    with readable(shard):
        try:
            yield
        except (pa.ArrowException, ValueError) as error:
            raise UserError(
                f"{shard}: {error} (wanted: {task.name} as {GLUE_REPO} has it)"
            ) from error


def _read(task: Task, shard: Path) -> dict[str, np.ndarray]:
    """Reads the task's columns by name, in pieces.

    No file can take more memory than GLUE's largest would. Raises ValueError or pyarrow's errors,
    without the file's name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if shard.is_fifo():  # opening a pipe waits for a writer
        raise ValueError("it is a pipe, not a file")
    with shard.open("rb") as start:
        if is_no_data(start.read(64)):
            raise ValueError("it is a web page or a Git LFS pointer; fetch it again (git lfs pull)")
    wanted = [*task.text, "label", "idx"]
    with pq.ParquetFile(shard) as file:
        schema, meta = file.schema_arrow, file.metadata
        if missing := [name for name in wanted if name not in schema.names]:
            raise ValueError(f"no column {', '.join(missing)} among {', '.join(schema.names)}")
        _check_names(task, schema.metadata or {})
        # First by the sizes that the file declares, which costs nothing.
        check_size(
            shard, sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
        )
        # An empty piece for each column, for a file without rows.
        pieces: dict[str, list[np.ndarray]] = {name: [np.empty(0, object)] for name in wanted}
        size = 0
        for batch in file.iter_batches(_BATCH, columns=wanted):
            for name in wanted:
                column = batch.column(name)
                # A dictionary can repeat a long text a million times in few bytes. Decoded, the
                # column has its real size.
                if pa.types.is_dictionary(column.type):
                    column = column.dictionary_decode()
                check_size(shard, size := size + column.nbytes)
                pieces[name].append(_values(column, name, task))
    # The empty piece is dropped where there are others: its type would make all columns objects.
    return {name: np.concatenate(found[1:] or found) for name, found in pieces.items()}


def _values(column: Any, name: str, task: Task) -> np.ndarray:
    """Returns a column as texts, class ids, scores or row numbers.

    Raises ValueError or pyarrow's errors where it holds anything else.
    """
    import pyarrow as pa

    if column.null_count:
        raise ValueError(f"column {name} has rows with an empty cell")
    if name not in task.text:
        # The cast raises where it would change a value: 0.5 as a class, an id beyond 64 bits.
        number = pa.float64() if name == "label" and task.regression else pa.int64()
        return np.asarray(column.cast(number))
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ValueError(f"column {name} holds {column.type}, not text")
    return np.array(column.to_pylist(), object)


def _check_names(task: Task, metadata: dict[bytes, bytes]) -> None:
    """Raises ValueError where the file's own label names are not `Task.labels`, in that order.

    A file without label names passes.
    """
    try:
        # `datasets` writes its column types as JSON under this key of the Parquet metadata.
        features = (
            json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        )
        names = tuple(features.get("label", {}).get("names", task.labels))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"its own note of its columns cannot be read ({error})") from error
    if names != task.labels:
        raise ValueError(
            f"its labels are {', '.join(map(str, names))}; they must be {', '.join(task.labels)}"
        )
