"""docs/record.md lists the keys of run.json that the schema has, with their kinds, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from dora.records.schema import FINISHED, RECORD

PAGE = (Path(__file__).parents[2] / "docs" / "record.md").read_text()


def test_the_page_has_every_key_of_the_schema_with_its_kind_and_no_other() -> None:
    (table,) = re.findall(r"<!-- schema -->(.*?)<!-- end -->", PAGE, re.DOTALL)
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| (.+?) \|$", table, re.MULTILINE)
    assert len(rows) == len({key for key, _, _ in rows})
    assert {key: kind for key, kind, _ in rows} == {key: k.words for key, k in RECORD.items()}


def test_the_page_says_which_keys_a_finished_run_has() -> None:
    (sentence,) = re.findall(r"^A record that is done has at least (.*?);", PAGE, re.DOTALL | re.M)
    assert set(re.findall(r"`(\w+)`", sentence)) == FINISHED[""]
