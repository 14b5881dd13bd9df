"""A run's progress bar: one line of a terminal, which leaves out parts where it is narrow."""

from __future__ import annotations

import shutil
from typing import Any

from tqdm import tqdm

# The first that fits. tqdm itself would cut the line's end off, where loss and rate stand.
_FORMS = (
    "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
    "[{elapsed}<{remaining}, {rate_fmt}{postfix}]",
    "{desc}{percentage:3.0f}% {n_fmt}/{total_fmt} [{remaining} left, {rate_fmt}{postfix}]",
    "{desc}{n_fmt}/{total_fmt} [{remaining} left{postfix}]",
    "{n_fmt}/{total_fmt} [{remaining} left{postfix}]",
)


class Bar(tqdm):
    """A bar from step `step` to `total_steps`; `label`: its beginning, empty for none."""

    def __init__(self, total_steps: int, step: int, label: str) -> None:
        # tqdm shows nothing where a terminal does not know its size, as in many containers; shutil
        # then says 80 x 24.
        columns, rows = shutil.get_terminal_size()
        super().__init__(
            total=total_steps,
            initial=step,
            desc=label and f"{label} ",
            unit="step",
            leave=False,
            ncols=columns,
            nrows=rows,
        )

    def __str__(self) -> str:
        """Returns the line, as wide as the terminal is now."""
        columns = shutil.get_terminal_size().columns
        # Without a width the bar itself has ten columns, the fewest that say anything.
        form = next((f for f in _FORMS if len(self._line(f, None)) <= columns), _FORMS[-1])
        return self._line(form, columns)

    def _line(self, form: str, columns: int | None) -> str:
        about: dict[str, Any] = {**self.format_dict, "bar_format": form, "ncols": columns}
        return str(self.format_meter(**about))
