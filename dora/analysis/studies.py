"""Names the study that a table, a figure or a page is of, so that no study overwrites another's.

The name alone, not the path: these files go into papers, some of them anonymous.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

# The beginnings of LaTeX, SVG and HTML that say `made_by`.
_MADE_BY = re.compile(
    r'(?:\A% |<dc:source>|<meta name="generator" content=")python -m dora\.\w+ of ([\w.=+-]+)'
)


def study_of(results: Path) -> str:
    """Returns the name of the results folder, which tells studies apart in files and labels."""
    # `abspath` gives `.` and `..` a name, and follows no link. A line break would end a comment.
    return re.sub(r"[^\w.=+-]", "_", Path(os.path.abspath(results)).name)


def made_by(command: str, results: Path) -> str:
    """Returns the text by which a file names its command and its study."""
    return f"python -m dora.{command} of {study_of(results)}"


def study_in(path: Path) -> str | None:
    """Returns the study that a file names at its beginning; None without one, and without a file."""
    found = _MADE_BY.search(beginning(path))
    return found[1] if found else None


def beginning(path: Path) -> str:
    """Returns a file's first 2,000 bytes; empty where there is no file."""
    try:
        with path.open("rb") as file:
            return file.read(2000).decode(errors="replace")
    except (FileNotFoundError, IsADirectoryError):  # another command may have removed it meanwhile
        return ""
