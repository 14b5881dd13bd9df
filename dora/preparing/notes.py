"""Notes on a run's model and data that its scores never go without."""

from __future__ import annotations

from collections.abc import Mapping

from dora.configuration.config import Config
from dora.data.tasks import Rows
from dora.records.about_data import other_sizes

# The way out that every note on embedded models or data names.
REAL = "real ones: model=roberta_base (or another) and data=hub, or data=dir data.dir=GLUE"


def embedded_note(config: Config) -> str | None:
    """Returns the note that belongs to scores of an embedded model or data; None for real ones."""
    if not config.embedded:
        return None
    parts = []
    if config.model.embedded and not config.model.path:
        parts.append(f"model {config.model_name}")
    if config.data.source == "mini":
        parts.append("data mini (generated)")
    verdict = "for trying the suite, scores say nothing about GLUE"
    if config.data.source != "mini":
        verdict = "small and briefly pretrained, scores are not to be compared with published ones"
    return f"embedded {' and '.join(parts)}: {verdict}; {REAL}"


def rows_note(config: Config, rows: Mapping[str, Rows]) -> str | None:
    """Returns the note on real data that are not GLUE's whole rows; None for GLUE's, and for mini."""
    other = other_sizes(config.glue_task, {split: len(held) for split, held in rows.items()})
    if config.data.source == "mini" or not other:
        return None
    parts = [
        f"{split} {there:,} rows (GLUE has {size:,})" for split, (there, size) in other.items()
    ]
    named = "" if config.data.name else "; data.name=WORD names them in paths and tables"
    return f"not GLUE's whole rows: {config.task.name} {', '.join(parts)}; tables say so{named}"
