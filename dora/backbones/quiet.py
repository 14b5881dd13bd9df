"""Silence for what Transformers says of things that every run has."""

from __future__ import annotations


class quiet:  # noqa: N801
    """Silences Transformers' warnings, such as its report of the head's new weights."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self.level = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self.level)
