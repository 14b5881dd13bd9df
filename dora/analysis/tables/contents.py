"""The tables of a study, in the order in which they stand."""

from __future__ import annotations

from dora.analysis.table import Table
from dora.analysis.tables.costs import costs
from dora.analysis.tables.counts import federated, trained
from dora.analysis.tables.differences import against
from dora.analysis.tables.layout import Grid
from dora.analysis.tables.run_settings import run_settings
from dora.analysis.tables.scores import medians, scores

# The ends of the tables' names (`Grid.name`): "" for the scores, which always exist.
ENDS = (
    "",
    "-differences",
    "-differences-by-task",
    "-medians",
    "-costs",
    "-trained",
    "-federated",
    "-settings",
)


def findings(table: Table) -> list[Grid]:
    """Returns the scores and the differences that the seeds show; none that repeats another."""
    return [scores(table), *against(table)]


def grids(table: Table) -> list[Grid]:
    """Returns every table of one data source and model, scores first."""
    rest = [
        medians(table) if len(table.seeds) > 1 else None,
        costs(table),
        trained(table),
        federated(table),
        run_settings(table),
    ]
    return [*findings(table), *(grid for grid in rest if grid is not None)]
