"""MRPC as Microsoft ships it, split as the official download_glue_data.py splits it.

The rule: every row is stripped. A row of msr_paraphrase_train.txt goes to dev if its two ids stand
in dev_ids.tsv, else to train. Test is msr_paraphrase_test.txt without its labels. Rows are numbered
from 0.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from dora.data.reading import Location, is_file, lines, readable
from dora.data.tasks import Rows, Task
from dora.data.tsv import read_tsv
from dora.errors import UserError

_TRAIN, _TEST = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"
# The name that the official script gives the file, then the name in its download.
_DEV_IDS = ("dev_ids.tsv", "mrpc_dev_ids.tsv")
RAW_FILES = (_TRAIN, _TEST, *_DEV_IDS)
# The addresses in download_glue_data.py; Microsoft's own page has only a Windows installer.
_URLS = {
    _TRAIN: f"https://dl.fbaipublicfiles.com/senteval/senteval_data/{_TRAIN}",
    _DEV_IDS[0]: f"https://dl.fbaipublicfiles.com/glue/data/{_DEV_IDS[1]}",
}
_SHOWN = 3  # pairs quoted from dev_ids.tsv


def read_raw(task: Task, place: Location, split: str) -> Rows:
    """Reads the rows of one split from the raw files at `place`.

    Raises FileNotFoundError where the test file is missing and UserError with all other missing
    files. Raises UserError also where dev_ids.tsv names pairs that the training file lacks, since
    the split would then differ from GLUE's.
    """
    if split == "test":
        return read_tsv(task, split, place / _TEST, _stripped)
    train = place / _TRAIN
    with readable(place):
        ids = next(
            (place / name for name in _DEV_IDS if is_file(place / name)), place / _DEV_IDS[0]
        )
        missing = [path for path in (train, ids) if not is_file(path)]
    if missing:
        raise UserError(*(_how_to_get(path) for path in missing))
    rows = read_tsv(task, split, train, _stripped)
    with readable(train):
        numbered = lines(train)
        next(numbered)  # the header
        # `read_tsv` has checked that every line is one row, so pairs and rows have the same order.
        pairs = [tuple(_stripped(raw)[1:3]) for _, raw in numbered]
    wanted = _dev_pairs(ids)
    if strange := sorted(wanted - set(pairs)):
        shown = ", ".join(" ".join(pair) for pair in strange[:_SHOWN])
        raise UserError(
            f"{ids} names {len(strange)} pairs of ids that {train} lacks ({shown}); "
            "they are not of one corpus, or one is cut short: fetch both again"
        )
    chosen = np.array([(pair in wanted) == (split == "dev") for pair in pairs]).nonzero()[0]
    if not len(chosen):
        raise UserError(f"{train} and {ids} leave no row for {split}; fetch both again")
    return replace(rows.take(chosen), idx=np.arange(len(chosen)))


def _dev_pairs(path: Location) -> set[tuple[str, ...]]:
    """Reads the pairs of ids of dev. Raises UserError at the first line that holds no pair."""
    pairs: set[tuple[str, ...]] = set()
    with readable(path):
        for number, raw in lines(path):
            # A byte order mark, as MRPC's other files have it.
            pair = tuple(_stripped(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw))
            if len(pair) != 2 or not all(part.isdecimal() for part in pair):
                raise UserError(
                    f"{path}, line {number}: two ids with a tab between them are due; "
                    f"fetch it again: {_URLS[_DEV_IDS[0]]}"
                )
            pairs.add(pair)
    return pairs


def _stripped(raw: bytes) -> list[str]:
    # The whole line is stripped, also of no-break spaces, as the official script does it.
    return raw.decode().strip().split("\t")


def _how_to_get(path: Location) -> str:
    name = PurePosixPath(str(path)).name
    return (
        f"mrpc needs {path} beside Microsoft's other files, and it is not there: "
        f"fetch {_URLS[name]}"
    )
