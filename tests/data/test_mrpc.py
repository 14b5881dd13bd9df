"""MRPC as Microsoft ships it gives the splits that the official script makes of it."""

import random
import zipfile

import pytest
from glue_files import GLUE, problems, real_data, write, write_zip

from dora.data.sources import fingerprint, read_dir
from dora.data.tasks import TASKS

MRPC = TASKS["mrpc"]
HEAD = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
# The pairs of dev, 12 22 and 14 24, share an id each with pairs of train.
TRAIN = [
    '1\t11\t22\tHe said "no .\tNo , he "said .',
    "0\t12\t22\tA\tB",
    "1\t14\t23\tC\tD ",
    "0\t14\t24\tE\tF\u00a0",
]
RAW = {
    "MRPC/msr_paraphrase_train.txt": HEAD + "".join(f"{row}\r\n" for row in TRAIN),
    "MRPC/msr_paraphrase_test.txt": HEAD + "1\t31\t41\tG\tH\r\n0\t32\t42\tI\tJ\r\n",
    "MRPC/dev_ids.tsv": "12\t22\n14\t24\n",
}
# The files that download_glue_data.py makes of them: rows stripped, \r\n as \n, the header of train
# and dev with its byte order mark.
OFFICIAL = {
    "MRPC/train.tsv": HEAD.replace("\r", "") + f"{TRAIN[0]}\n1\t14\t23\tC\tD\n",
    "MRPC/dev.tsv": HEAD.replace("\r", "") + f"{TRAIN[1]}\n0\t14\t24\tE\tF\n",
    "MRPC/test.tsv": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    "0\t31\t41\tG\tH\n1\t32\t42\tI\tJ\n",
}


def without(*names):
    return {path: text for path, text in RAW.items() if path.split("/")[1] not in names}


def test_raw_files_give_the_official_splits(tmp_path):
    raw, official = (
        read_dir(MRPC, write(tmp_path / "raw", RAW)),
        read_dir(MRPC, write(tmp_path, OFFICIAL)),
    )
    assert {split: rows.first for split, rows in raw.items()} == {
        "train": ['He said "no .', "C"],
        "dev": ["A", "E"],
        "test": ["G", "I"],
    }
    assert raw["test"].label is None
    assert fingerprint(raw) == fingerprint(official)


def test_raw_files_are_read_from_a_zip_and_with_the_downloads_name_of_the_ids(tmp_path):
    # With a byte order mark, as the other files have it.
    ids = {"MRPC/mrpc_dev_ids.tsv": "\ufeff" + RAW["MRPC/dev_ids.tsv"], **without("dev_ids.tsv")}
    assert len(read_dir(MRPC, write_zip(tmp_path, "MRPC.zip", ids))["dev"]) == 2


def test_the_scripts_own_files_come_first_and_a_test_file_alone_is_none_of_them(tmp_path):
    # test.tsv alone: the script ended because it could not get dev_ids.tsv.
    folder = write(tmp_path, {**RAW, "MRPC/test.tsv": "index\n"})
    assert read_dir(MRPC, folder)["test"].first == ["G", "I"]
    one = {
        "MRPC/train.tsv": HEAD + TRAIN[1],
        "MRPC/dev.tsv": HEAD + TRAIN[1],
        "MRPC/test.tsv": OFFICIAL["MRPC/test.tsv"],
    }
    assert len(read_dir(MRPC, write(folder, one))["train"]) == 1


def test_a_test_file_that_is_missing_is_left_out(tmp_path):
    assert set(read_dir(MRPC, write(tmp_path, without("msr_paraphrase_test.txt")))) == {
        "train",
        "dev",
    }


@pytest.mark.parametrize(
    "missing",
    [("dev_ids.tsv",), ("msr_paraphrase_train.txt",), ("dev_ids.tsv", "msr_paraphrase_train.txt")],
)
def test_a_missing_file_is_named_with_where_to_get_it(tmp_path, missing):
    found = problems(read_dir, MRPC, write(tmp_path, without(*missing)))
    assert len(found) == len(missing)
    for name in missing:
        (said,) = (f for f in found if f"mrpc needs {tmp_path / 'MRPC' / name}" in f)
        assert "fetch https://dl.fbaipublicfiles.com/" in said


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("dev_ids.tsv", "12\t22\n99\t98\n", "dev_ids.tsv names 1 pairs of ids that"),
        ("dev_ids.tsv", "22\t12\n", "(22 12)"),
        ("dev_ids.tsv", "12 22\n", "dev_ids.tsv, line 1: two ids with a tab between them are due"),
        ("dev_ids.tsv", "<!DOCTYPE html>\n", "dev_ids.tsv, line 1: two ids"),
        ("dev_ids.tsv", "12\t22\n14\n", "dev_ids.tsv, line 2: two ids"),
        ("dev_ids.tsv", "12\t22\t32\n", "dev_ids.tsv, line 1: two ids"),
        ("dev_ids.tsv", "", "leave no row for dev"),
        ("dev_ids.tsv", "11\t22\n12\t22\n14\t23\n14\t24\n", "leave no row for train"),
        (
            "msr_paraphrase_train.txt",
            HEAD + TRAIN[0] + "\n1\t2\n",
            "line 3: 2 tab-separated fields where 5",
        ),
        (
            "msr_paraphrase_train.txt",
            HEAD + "\n" + TRAIN[0],
            "line 2: 1 tab-separated fields where 5",
        ),
        (
            "msr_paraphrase_train.txt",
            "version https://git-lfs.github.com/spec/v1\n",
            "Git LFS pointer",
        ),
        ("msr_paraphrase_test.txt", "A\tB\n", "no column '#1 String', '#2 String'"),
    ],
)
def test_broken_raw_files_are_named_with_the_rule(tmp_path, name, text, said):
    found = problems(read_dir, MRPC, write(tmp_path, {**RAW, f"MRPC/{name}": text}))
    assert any(name in f and said in f for f in found)
    assert len(set(found)) == len(found)


@real_data
def test_the_real_corpus_is_split_as_glue_is(tmp_path):
    with zipfile.ZipFile(GLUE / "MRPC.zip") as archive:
        official = {}
        for name in ("train", "dev", "test"):
            text = archive.read(f"MRPC/{name}.tsv").decode("utf-8-sig")
            official[name] = text.split("\n")[1:-1]
        ids = archive.read("MRPC/dev_ids.tsv")
    mixed = [0] * len(official["train"]) + [1] * len(official["dev"])
    random.Random(0).shuffle(mixed)
    parts = iter(official["train"]), iter(official["dev"])
    train = [next(parts[which]) for which in mixed]
    test = ["0\t" + row.split("\t", 1)[1] for row in official["test"]]
    files = {
        "MRPC/msr_paraphrase_train.txt": HEAD + "\r\n".join(train),
        "MRPC/dev_ids.tsv": ids,
        "MRPC/msr_paraphrase_test.txt": HEAD + "\r\n".join(test),
    }
    assert fingerprint(read_dir(MRPC, write(tmp_path, files))) == fingerprint(read_dir(MRPC, GLUE))
