"""A TSV of the official download gives rows, and wrong lines give messages with file and line."""

import re

import numpy as np
import pytest
from glue_files import RTE, SST2, problems, write, write_zip

from dora.data.sources import fingerprint, read_dir
from dora.data.tasks import TASKS


def test_rows_of_unpacked_tsv(tmp_path):
    splits = read_dir(TASKS["sst2"], write(tmp_path, SST2))
    assert list(splits) == ["train", "dev", "test"]
    assert splits["train"].first == ["fine film ", "bad "]
    assert splits["train"].second is None
    assert splits["train"].label.tolist() == [1, 0]
    assert splits["train"].label.dtype == np.int64
    assert splits["train"].idx.tolist() == [0, 1]
    assert splits["test"].label is None
    assert splits["test"].idx.tolist() == [7]


def test_quotes_unicode_separators_and_line_ends_are_text_or_not_as_in_glue(tmp_path):
    text = (
        'sentence\tlabel\r\nan "open quote\t1\r\nnext\u2028line\x85and\x0bmore\rhere\t0\r\nlast\t1'
    )
    splits = read_dir(TASKS["sst2"], write(tmp_path, {**SST2, "SST-2/train.tsv": text}))
    assert splits["train"].first == [
        'an "open quote',
        "next\u2028line\x85and\x0bmore\rhere",
        "last",
    ]
    assert splits["train"].label.tolist() == [1, 0, 1]


def test_cola_has_no_header_but_its_test_file_has(tmp_path):
    rows = "gj04\t1\t\tIt rained.\ngj04\t0\t*\tRained it.\n"
    files = {
        "CoLA/train.tsv": rows,
        "CoLA/dev.tsv": rows,
        "CoLA/test.tsv": "index\tsentence\n0\tHello.\n",
    }
    splits = read_dir(TASKS["cola"], write(tmp_path, files))
    assert splits["train"].first == ["It rained.", "Rained it."]
    assert splits["train"].label.tolist() == [1, 0]
    assert splits["test"].first == ["Hello."]


def test_mrpc_byte_order_mark_and_columns_by_name(tmp_path):
    head = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    swapped = "#2 String\t#1 String\tQuality\nb\ta\t0\n"
    files = {"MRPC/train.tsv": head + "1\t11\t12\ta\tb\n", "MRPC/dev.tsv": swapped}
    splits = read_dir(TASKS["mrpc"], write(tmp_path, files))
    for split, label in (("train", 1), ("dev", 0)):
        assert (splits[split].first, splits[split].second) == (["a"], ["b"])
        assert splits[split].label.tolist() == [label]


def test_broken_rows_name_file_line_and_rule_and_are_counted(tmp_path):
    train = "sentence\tlabel\nok\t1\n" + "no label\n" + "odd\t2\n" + "a\tb\t1\n" + "x\n" * 4
    dev = b"sentence\tlabel\nso\t0\n\xff\t0\n"
    found = problems(
        read_dir, TASKS["sst2"], write(tmp_path, {"SST-2/train.tsv": train, "SST-2/dev.tsv": dev})
    )
    path = tmp_path / "SST-2" / "train.tsv"
    assert found[0].startswith(f"{path}, line 3: 1 tab-separated fields where 2 are due")
    assert found[1] == f"{path}, line 4: label '2' must be one of 0, 1"
    assert found[2].startswith(f"{path}, line 5: 3 tab-separated fields")
    assert found[3] == f"{path}: 4 more broken rows"
    assert found[4].startswith(f"{tmp_path / 'SST-2' / 'dev.tsv'}, line 3: 'utf-8' codec")


def test_line_numbers_count_from_one_without_a_header(tmp_path):
    files = {"CoLA/train.tsv": "gj04\t9\t\tx\n", "CoLA/dev.tsv": "gj04\t1\t\tx\n"}
    (found,) = problems(read_dir, TASKS["cola"], write(tmp_path, files))
    assert found == f"{tmp_path / 'CoLA' / 'train.tsv'}, line 1: label '9' must be one of 0, 1"


@pytest.mark.parametrize("score", ["5.1", "-1", "nan", "high"])
def test_sts_b_score_out_of_range(tmp_path, score):
    text = f"index\tsentence1\tsentence2\tscore\n0\ta\tb\t{score}\n"
    found = problems(
        read_dir, TASKS["stsb"], write(tmp_path, {"STS-B/train.tsv": text, "STS-B/dev.tsv": text})
    )
    assert [f"line 2: score '{score}' must be a number from 0 to 5" in f for f in found] == [
        True,
        True,
    ]


def test_index_must_be_a_number(tmp_path):
    files = {**RTE, "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\nx\te\tf\tentailment\n"}
    (found,) = problems(read_dir, TASKS["rte"], write(tmp_path, files))
    assert "dev.tsv, line 2: index 'x' must be a whole number" in found


def test_label_names_are_not_taken_for_ids(tmp_path):
    files = {**RTE, "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\te\tf\t0\n"}
    (found,) = problems(read_dir, TASKS["rte"], write(tmp_path, files))
    assert "label '0' must be one of entailment, not_entailment" in found


def test_missing_column_names_it_and_those_found(tmp_path):
    (found,) = problems(
        read_dir, TASKS["sst2"], write(tmp_path, {**SST2, "SST-2/dev.tsv": "text\tlabel\nx\t1\n"})
    )
    assert (
        f"{tmp_path / 'SST-2' / 'dev.tsv'}, line 1: no column 'sentence' among 'text, label'"
        in found
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<!DOCTYPE html>\n<html>", "is a web page"),
        ("version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        ("", "no column 'sentence', 'label'"),
        ("sentence\tlabel\n", "has no rows"),
    ],
)
def test_file_that_is_no_table(tmp_path, content, said):
    (found,) = problems(
        read_dir, TASKS["sst2"], write(tmp_path, {**SST2, "SST-2/dev.tsv": content})
    )
    assert str(tmp_path / "SST-2" / "dev.tsv") in found
    assert said in found


def test_qqp_takes_row_numbers_and_an_empty_question(tmp_path):
    head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    files = {
        "QQP/train.tsv": head + "99\t1\t2\tq\t\t1\n",
        "QQP/dev.tsv": head + "5\t1\t2\tq\tr\t0\n",
    }
    train = read_dir(TASKS["qqp"], write_zip(tmp_path, "QQP-clean.zip", files))["train"]
    assert (train.first, train.second, train.idx.tolist()) == (["q"], [""], [0])


def test_mnli_matched_and_mismatched(tmp_path):
    head = "index\tsentence1\tsentence2\tgold_label\n"
    labelled = {"train": "neutral", "dev_matched": "entailment", "dev_mismatched": "contradiction"}
    files = {
        f"MNLI/{name}.tsv": f"{head}0\tp {name}\th\t{label}\n" for name, label in labelled.items()
    }
    files["MNLI/test_mismatched.tsv"] = "index\tsentence1\tsentence2\n0\tp\th\n"
    splits = read_dir(TASKS["mnli"], write(tmp_path, files))
    assert {s: r.label if r.label is None else r.label.tolist() for s, r in splits.items()} == {
        "train": [1],
        "dev": [0],
        "dev_mm": [2],
        "test_mm": None,
    }
    assert splits["dev_mm"].first == ["p dev_mismatched"]


BLANK = ["\n", "\r\n", "\n\n\n", "\r\n\r\n", "\n\r\n"]


@pytest.mark.parametrize("blank", BLANK)
def test_blank_lines_at_the_end_carry_no_row(tmp_path, blank):
    files = {name: text + blank for name, text in (SST2 | RTE).items()}
    folder, plain = write(tmp_path / "blank", files), write(tmp_path / "plain", SST2 | RTE)
    for task in (TASKS["sst2"], TASKS["rte"]):
        assert fingerprint(read_dir(task, folder)) == fingerprint(read_dir(task, plain))


@pytest.mark.parametrize("blank", BLANK)
def test_a_blank_line_in_the_middle_is_a_broken_row(tmp_path, blank):
    text = RTE["RTE/train.tsv"].replace("\n1\tc", f"\n{blank}1\tc")
    found = problems(read_dir, TASKS["rte"], write(tmp_path, {**RTE, "RTE/train.tsv": text}))
    assert len(found) == blank.count("\n")
    assert "train.tsv, line 3: 1 tab-separated fields where 4 are due" in found[0]


def test_a_file_of_blank_lines_is_no_table(tmp_path):
    cola = "gj04\t1\t\tIt rained.\n"
    folder = write(
        tmp_path,
        {"CoLA/train.tsv": "\n\n\n", "CoLA/dev.tsv": cola, **SST2, "SST-2/dev.tsv": "\n\n"},
    )
    assert "train.tsv has no rows" in problems(read_dir, TASKS["cola"], folder)[0]
    assert "dev.tsv, line 1: no column 'sentence'" in problems(read_dir, TASKS["sst2"], folder)[0]


LARGE = "9223372036854775808"


@pytest.mark.parametrize(
    "index", [LARGE, "9" * 5000, "１", "٣", "²", "-1", "1.0", "1e3", "1_0", " 1", "", "0x1"]
)
def test_an_index_that_is_no_number_of_64_bits_is_refused(tmp_path, index):
    text = f"index\tsentence1\tsentence2\tlabel\n{index}\ta\tb\tentailment\n"
    (found,) = problems(read_dir, TASKS["rte"], write(tmp_path, {**RTE, "RTE/dev.tsv": text}))
    assert "dev.tsv, line 2: index " in found
    assert "must be a whole number from 0 to 9223372036854775807 in the digits 0 to 9" in found
    assert len(found) < 400


@pytest.mark.parametrize(
    ("index", "number"), [("9223372036854775807", 2**63 - 1), ("007", 7), ("0" * 5000 + "1", 1)]
)
def test_an_index_of_64_bits_is_taken(tmp_path, index, number):
    text = f"index\tsentence1\tsentence2\tlabel\n{index}\ta\tb\tentailment\n"
    splits = read_dir(TASKS["rte"], write(tmp_path, {**RTE, "RTE/dev.tsv": text}))
    assert splits["dev"].idx.tolist() == [number]


@pytest.mark.parametrize(
    "score", ["1e999", "-inf", "NaN", "１", "٣.٢", "0_1", "1,5", "", "9" * 5000]
)
def test_a_score_that_is_no_number_from_0_to_5_is_refused(tmp_path, score):
    head = "index\tsentence1\tsentence2\tscore\n0\ta\tb\t"
    files = {"STS-B/train.tsv": f"{head}2.5\n", "STS-B/dev.tsv": f"{head}{score}\n"}
    (found,) = problems(read_dir, TASKS["stsb"], write(tmp_path, files))
    assert re.search(r"dev.tsv, line 2: score '.* must be a number from 0 to 5$", found)
    assert len(found) < 400


@pytest.mark.parametrize("label", ["１", "1.0", "01", "1e999", "nan", " 1", "9" * 5000])
def test_a_label_is_taken_as_glue_writes_it_alone(tmp_path, label):
    text = f"sentence\tlabel\nso so\t{label}\n"
    (found,) = problems(read_dir, TASKS["sst2"], write(tmp_path, {**SST2, "SST-2/dev.tsv": text}))
    assert re.search(r"dev.tsv, line 2: label '.* must be one of 0, 1$", found)
    assert len(found) < 400


@pytest.mark.parametrize(
    ("split", "text", "name"),
    [
        ("dev", "sentence\tlabel\tlabel\nx\t1\t0\n", "label"),
        ("test", "index\tindex\tsentence\n0\t7\tx\n", "index"),
    ],
)
def test_a_column_that_stands_twice_in_the_header_is_refused(tmp_path, split, text, name):
    files = {**SST2, f"SST-2/{split}.tsv": text}
    (found,) = problems(read_dir, TASKS["sst2"], write(tmp_path, files))
    path = tmp_path / "SST-2" / f"{split}.tsv"
    assert f"{path}, line 1: '{name}' stands twice in the header" in found
