"""MRPC as Microsoft ships it, split into train, dev and test as the official download_glue_data.py splits it.

The rule: every row is stripped; a row of msr_paraphrase_train.txt whose two ids stand in dev_ids.tsv goes to
dev, any other to train; test is msr_paraphrase_test.txt without its labels; rows are numbered from 0.
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
_DEV_IDS = (
    "dev_ids.tsv",
    "mrpc_dev_ids.tsv",
)  # the official script's name, and that of the download
RAW_FILES = (_TRAIN, _TEST, *_DEV_IDS)
_URLS = {
    _TRAIN: f"https://dl.fbaipublicfiles.com/senteval/senteval_data/{_TRAIN}",
    _DEV_IDS[0]: f"https://dl.fbaipublicfiles.com/glue/data/{_DEV_IDS[1]}",
}
_SHOWN = 3  # pairs quoted from dev_ids.tsv


def read_raw(task: Task, place: Location, split: str) -> Rows:
    """The rows of one split from the raw files at `place`.

    Raises FileNotFoundError where there is no test file, UserError with every other file that is missing, and
    where dev_ids.tsv names pairs that the training file lacks: the split would not be GLUE's.
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
        pairs = [tuple(_stripped(raw)[1:3]) for _, raw in numbered]
    wanted = _dev_pairs(ids)
    if strange := sorted(wanted - set(pairs)):
        shown = ", ".join(" ".join(pair) for pair in strange[:_SHOWN])
        raise UserError(
            f"{ids} names {len(strange)} pairs of ids that {train} lacks ({shown}); they are not of one corpus, or "
            "one is cut short: fetch both again"
        )
    chosen = np.array([(pair in wanted) == (split == "dev") for pair in pairs]).nonzero()[0]
    if not len(chosen):
        raise UserError(f"{train} and {ids} leave no row for {split}; fetch both again")
    return replace(rows.take(chosen), idx=np.arange(len(chosen)))


def _dev_pairs(path: Location) -> set[tuple[str, ...]]:
    """The pairs of ids that belong to dev. Raises UserError at the first line that is none."""
    pairs: set[tuple[str, ...]] = set()
    with readable(path):
        for number, raw in lines(path):
            pair = tuple(_stripped(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw))
            if len(pair) != 2 or not all(part.isdecimal() for part in pair):
                raise UserError(
                    f"{path}, line {number}: two ids with a tab between them are due; fetch it again: "
                    f"{_URLS[_DEV_IDS[0]]}"
                )
            pairs.add(pair)
    return pairs


def _stripped(raw: bytes) -> list[str]:
    return raw.decode().strip().split("\t")


def _how_to_get(path: Location) -> str:
    name = PurePosixPath(str(path)).name
    return f"mrpc needs {path} beside Microsoft's other files, and it is not there: fetch {_URLS[name]}"
