"""`dora.load`: finished runs as a pandas DataFrame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dora.analysis.tables.csv_lines import as_row
from dora.errors import UserError
from dora.records.finished import read_runs
from dora.records.packed import origin

if TYPE_CHECKING:
    import pandas


def load(results: str | Path = "results") -> pandas.DataFrame:
    """Returns the finished runs under `results`/runs, or in its runs.jsonl.gz, one row a run.

    Columns: the run's place (data, task, model, method, budget, key, seed); `best.…` and `last.…`,
    both evaluations' scores as fractions with their steps; `params.…`, counts of parameters;
    `config.…`, every setting; `tuning.…`, the search of its learning rate; `federation.…`, a
    federated run's rounds; then what it took and where it was made, and its `folder`.
    docs/python.md lists them. Records that cannot be believed are left out and named on standard
    error.

    Raises UserError where there is no finished run, or no pandas.
    """
    try:
        import pandas
    except ImportError as e:
        raise UserError("dora.load makes a pandas DataFrame: pip install pandas") from e
    there = Path(results)
    runs = read_runs(there)
    if not runs:
        raise UserError(f"{there} holds no finished run: give the folder that holds runs/")
    # Packed records lie in a folder of this process alone, which is nobody's place to look.
    rows = [
        {
            **as_row(run),
            "folder": str(run["folder"].absolute()) if origin(run["folder"]) is None else None,
        }
        for run in runs
    ]
    return pandas.DataFrame(rows)
