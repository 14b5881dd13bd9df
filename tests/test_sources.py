"""GLUE's files: what is read from them, and what a user hears when they are wrong."""

import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dora.data import hub
from dora.data.hub import fetch_hub
from dora.data.sources import fingerprint, read_dir, read_hub
from dora.data.tasks import AX, TASKS, Rows
from dora.errors import UserError

GLUE = Path(os.environ.get("GLUE_DIR", Path(__file__).parents[2] / "shared" / "glue"))
real_data = pytest.mark.skipif(not (GLUE / "README.md").is_file(), reason="no GLUE download (GLUE_DIR)")

SST2 = {
    "SST-2/train.tsv": "sentence\tlabel\nfine film \t1\nbad \t0\n",
    "SST-2/dev.tsv": "sentence\tlabel\nso so\t0\n",
    "SST-2/test.tsv": "index\tsentence\n7\twho knows\n",
}
RTE = {
    "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n1\tc\td\tentailment\n",
    "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\te\tf\tentailment\n",
}


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def write_zip(folder: Path, name: str, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return folder


def write_hub(folder: Path, name: str, columns: dict[str, list], labels: list[str] | None = None) -> Path:
    """One parquet file; `labels` become the ClassLabel names of the hub's own metadata."""
    table = pa.table(columns)
    if labels:
        import datasets

        features = datasets.Features.from_arrow_schema(table.schema)
        features["label"] = datasets.ClassLabel(names=labels)
        table = table.cast(features.arrow_schema)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name)
    return folder


def problems(call, *arguments) -> list[str]:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return list(caught.value.problems)


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
    text = 'sentence\tlabel\r\nan "open quote\t1\r\nnext\u2028line\x85and\x0bmore\rhere\t0\r\nlast\t1'
    splits = read_dir(TASKS["sst2"], write(tmp_path, {**SST2, "SST-2/train.tsv": text}))
    assert splits["train"].first == ['an "open quote', "next\u2028line\x85and\x0bmore\rhere", "last"]
    assert splits["train"].label.tolist() == [1, 0, 1]


def test_cola_has_no_header_but_its_test_file_has(tmp_path):
    rows = "gj04\t1\t\tIt rained.\ngj04\t0\t*\tRained it.\n"
    files = {"CoLA/train.tsv": rows, "CoLA/dev.tsv": rows, "CoLA/test.tsv": "index\tsentence\n0\tHello.\n"}
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


def test_mnli_matched_and_mismatched(tmp_path):
    head = "index\tsentence1\tsentence2\tgold_label\n"
    labelled = {"train": "neutral", "dev_matched": "entailment", "dev_mismatched": "contradiction"}
    files = {f"MNLI/{name}.tsv": f"{head}0\tp {name}\th\t{label}\n" for name, label in labelled.items()}
    files["MNLI/test_mismatched.tsv"] = "index\tsentence1\tsentence2\n0\tp\th\n"
    splits = read_dir(TASKS["mnli"], write(tmp_path, files))
    assert {s: r.label if r.label is None else r.label.tolist() for s, r in splits.items()} == {
        "train": [1], "dev": [0], "dev_mm": [2], "test_mm": None
    }  # fmt: skip
    assert splits["dev_mm"].first == ["p dev_mismatched"]


def test_qqp_takes_row_numbers_and_an_empty_question(tmp_path):
    head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    files = {"QQP/train.tsv": head + "99\t1\t2\tq\t\t1\n", "QQP/dev.tsv": head + "5\t1\t2\tq\tr\t0\n"}
    train = read_dir(TASKS["qqp"], write_zip(tmp_path, "QQP-clean.zip", files))["train"]
    assert (train.first, train.second, train.idx.tolist()) == (["q"], [""], [0])


@pytest.mark.parametrize("place", ["AX.tsv", "diagnostic.tsv", "AX/AX.tsv", "diagnostic/diagnostic.tsv"])
def test_ax_wherever_the_official_download_puts_it(tmp_path, place):
    rows = read_dir(AX, write(tmp_path, {place: "index\tsentence1\tsentence2\n0\tp\th\n"}))["ax"]
    assert (rows.first, rows.second, rows.label) == (["p"], ["h"], None)


def test_ax_in_a_zip(tmp_path):
    text = "index\tsentence1\tsentence2\n0\tp\th\n"
    assert len(read_dir(AX, write_zip(tmp_path, "AX.zip", {"AX/AX.tsv": text}))["ax"]) == 1


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
    assert [f"line 2: score '{score}' must be a number from 0 to 5" in f for f in found] == [True, True]


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
    assert f"{tmp_path / 'SST-2' / 'dev.tsv'}, line 1: no column 'sentence' among 'text, label'" in found


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
    (found,) = problems(read_dir, TASKS["sst2"], write(tmp_path, {**SST2, "SST-2/dev.tsv": content}))
    assert str(tmp_path / "SST-2" / "dev.tsv") in found
    assert said in found


def test_all_missing_files_in_one_error(tmp_path):
    found = problems(read_dir, TASKS["sst2"], write_zip(tmp_path, "SST-2.zip", {"SST-2/test.tsv": "index\n"}))
    for split, message in zip(("train", "dev", "test"), found, strict=True):
        assert f"SST-2.zip/SST-2/{split}.tsv" in message


def test_empty_and_missing_folder_name_what_was_wanted(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        (found,) = problems(read_dir, TASKS["rte"], folder)
        assert all(word in found for word in (f"data.dir={folder}", "RTE.zip", "data=hub", "data=mini"))


def test_zip_that_is_not_a_zip(tmp_path):
    (found,) = problems(read_dir, TASKS["rte"], write(tmp_path, {"RTE.zip": "<html>404</html>"}))
    assert f"{tmp_path / 'RTE.zip'} is not a zip archive" in found


def test_damaged_zip_is_named(tmp_path):
    write_zip(tmp_path, "SST-2.zip", SST2)
    stored = (tmp_path / "SST-2.zip").read_bytes()
    (tmp_path / "SST-2.zip").write_bytes(
        stored.replace(b"fine film", b"vile film")
    )  # the checksum no longer fits
    (found,) = problems(read_dir, TASKS["sst2"], tmp_path)
    assert "SST-2.zip/SST-2/train.tsv cannot be read" in found


def hub_rte(folder: Path) -> Path:
    """The contents of `RTE` in the hub's layout, train in two shards."""
    names = ["entailment", "not_entailment"]
    train = ({"sentence1": ["a"], "sentence2": ["b"], "label": [1], "idx": [0]},
             {"sentence1": ["c"], "sentence2": ["d"], "label": [0], "idx": [1]})  # fmt: skip
    for i, shard in enumerate(train):
        write_hub(folder, f"rte/train-{i:05}-of-00002.parquet", shard, names)
    dev = {"sentence1": ["e"], "sentence2": ["f"], "label": [0], "idx": [0]}
    return write_hub(folder, "rte/validation-00000-of-00001.parquet", dev, names)


def test_fingerprint_is_that_of_the_content_not_of_the_file(tmp_path):
    task = TASKS["rte"]
    zipped = write_zip(tmp_path, "RTE.zip", RTE)
    unpacked, hub = write(tmp_path / "tsv", RTE), hub_rte(tmp_path / "hub")
    prints = {fingerprint(read_dir(task, zipped)), fingerprint(read_dir(task, unpacked)),
              fingerprint(read_hub(task, hub))}  # fmt: skip
    assert len(prints) == 1
    assert re.fullmatch("[0-9a-f]{64}", prints.pop())


def test_fingerprint_tells_contents_apart():
    def rows(first=("a", "b"), second=None, label=(0, 1), idx=(0, 1)) -> Rows:
        return Rows(list(first), second, None if label is None else np.array(label), np.array(idx))

    different = [
        {"train": rows()},
        {"dev": rows()},
        {"train": rows(first=("ab", ""))},
        {"train": rows(second=["", ""])},
        {"train": rows(label=None)},
        {"train": rows(label=(1, 0))},
        {"train": rows(label=(0.0, 1.0))},
        {"train": rows(idx=(1, 0))},
    ]
    assert len({fingerprint(d) for d in different}) == len(different)
    assert fingerprint({"a": rows(), "b": rows()}) == fingerprint({"b": rows(), "a": rows()})


def test_sts_b_scores_are_the_same_bits_from_both_sources(tmp_path):
    head = "index\tsentence1\tsentence2\tscore\n0\ta\tb\t"
    tsv = write(tmp_path, {"STS-B/train.tsv": head + "3.8\n", "STS-B/dev.tsv": head + "1.53333333333333\n"})
    for name, value in (("train", 3.8), ("validation", 1.53333333333333)):
        columns = {
            "sentence1": ["a"],
            "sentence2": ["b"],
            "label": pa.array([value], pa.float32()),
            "idx": [0],
        }
        write_hub(tmp_path, f"stsb/{name}-00000-of-00001.parquet", columns)
    hub, tsv = read_hub(TASKS["stsb"], tmp_path), read_dir(TASKS["stsb"], tsv)
    assert hub["train"].label.tolist() == tsv["train"].label.tolist() == pytest.approx([3.8])
    assert fingerprint(hub) == fingerprint(tsv)


def test_hub_test_labels_are_none_whatever_the_file_says(tmp_path):
    for label in (-1, 1):
        columns = {"sentence1": ["x"], "sentence2": ["y"], "label": [label], "idx": [4]}
        write_hub(hub_rte(tmp_path), "rte/test-00000-of-00001.parquet", columns)
        assert read_hub(TASKS["rte"], tmp_path)["test"].label is None


def test_hub_label_order_must_be_ours(tmp_path):
    columns = {"sentence1": ["e"], "sentence2": ["f"], "label": [0], "idx": [0]}
    swapped = ["not_entailment", "entailment"]
    write_hub(hub_rte(tmp_path), "rte/validation-00000-of-00001.parquet", columns, swapped)
    (found,) = problems(read_hub, TASKS["rte"], tmp_path)
    assert "its labels are not_entailment, entailment; they must be entailment, not_entailment" in found


def test_hub_layout_missing_splits_shards_and_columns_are_all_named(tmp_path):
    (tmp_path / "none").mkdir()
    assert len(problems(read_hub, TASKS["mnli"], tmp_path / "none")) == 3  # train and both dev splits
    (hub_rte(tmp_path) / "rte/train-00000-of-00002.parquet").unlink()
    write_hub(
        tmp_path, "rte/validation-00000-of-00001.parquet", {"sentence1": ["e"], "label": [0], "idx": [0]}
    )
    write(tmp_path, {"rte/test-00000-of-00001.parquet": "<html>"})
    found = problems(read_hub, TASKS["rte"], tmp_path)
    for message, said in zip(
        found, ("fewer shards than the 1 found", "no column sentence2", "test-00000-of-00001"), strict=True
    ):
        assert said in message


def test_hub_training_labels_must_be_in_range(tmp_path):
    columns = {"sentence1": ["e"], "sentence2": ["f"], "label": [-1], "idx": [0]}
    write_hub(hub_rte(tmp_path), "rte/validation-00000-of-00001.parquet", columns)
    (found,) = problems(read_hub, TASKS["rte"], tmp_path)
    assert "labels run from -1 to -1; they must lie in 0..1" in found


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty cache, and an endpoint on which nothing listens."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cached(cache: Path, *files: str) -> Path:
    """A cached snapshot as an interrupted or another program's download leaves it."""
    return write(cache / "models--a--b" / "snapshots" / ("0" * 40), dict.fromkeys(files, "x"))


def test_unreachable_hub_is_told_within_10_s_with_the_way_out(no_network):
    start = time.perf_counter()
    (found,) = problems(fetch_hub, "nyu-mll/glue", "0" * 40, ["rte/*"], "dataset", "data=dir or data=mini")
    assert time.perf_counter() - start < 10
    for said in ("nyu-mll/glue", "http://127.0.0.1:9", str(no_network), "data=dir or data=mini"):
        assert said in found


def test_look_up_that_hangs_is_given_up(no_network, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(hub, "_PROBE_S", 0.2)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *a, **k: time.sleep(3))
    start = time.perf_counter()
    (found,) = problems(fetch_hub, "nyu-mll/glue", "0" * 40, ["rte/*"], "dataset", "data=mini")
    assert time.perf_counter() - start < 2.5
    assert "no answer within 0.2 s" in found


def test_offline_mode_is_named(no_network, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (found,) = problems(fetch_hub, "a/b", "0" * 40, ["*.json"], "model", "model=tiny_roberta")
    assert "HF_HUB_OFFLINE" in found
    assert "model=tiny_roberta" in found


def test_no_repository_name(no_network):
    (found,) = problems(fetch_hub, "no such/name/", "main", ["*"], "model", "model=tiny_roberta")
    assert "no such/name/" in found
    assert "model=tiny_roberta" in found


def test_cached_snapshot_needs_no_network(no_network):
    folder = cached(no_network, "config.json", "model.bin")
    patterns = ["config.json", "*.safetensors|*.bin", "merges.txt|"]
    assert fetch_hub("a/b", "0" * 40, patterns, "model", "-") == folder


def test_half_a_cached_snapshot_is_not_taken_for_whole(no_network):
    cached(no_network, "config.json")
    (found,) = problems(fetch_hub, "a/b", "0" * 40, ["config.json", "*.safetensors|*.bin"], "model", "-")
    assert "not whole" in found


def test_a_cached_snapshot_that_is_not_whole_to_its_reader_is_fetched_again(no_network, monkeypatch):
    import huggingface_hub

    folder, asked = cached(no_network, "config.json", "model.bin"), []

    def snapshot_download(repo, *, repo_type, revision, allow_patterns, local_files_only):
        asked.append(local_files_only)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *a, **k: None)
    for whole, fetched in ((True, [True]), (False, [True, False])):
        asked.clear()
        fetch_hub("a/b", "0" * 40, ["config.json"], "model", "-", lambda found, whole=whole: whole)
        assert asked == fetched


def test_download_takes_the_first_alternative_the_repository_has(no_network, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot_download(repo, *, repo_type, revision, allow_patterns, local_files_only):
        if local_files_only:
            raise FileNotFoundError
        asked.append(allow_patterns)
        has = {"config.json": "config.json", "*.bin": "model.bin"}
        return str(cached(no_network, *(has[p] for p in allow_patterns if p in has)))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *a, **k: None)
    fetch_hub("a/b", "0" * 40, ["config.json", "*.safetensors|*.bin"], "model", "-")
    assert asked == [["config.json", "*.safetensors"], ["*.bin"]]
    (found,) = problems(fetch_hub, "a/b", "0" * 40, ["*.txt|*.md"], "model", "model=tiny_roberta")
    assert "has no file *.txt|*.md" in found


def test_download_that_breaks_off_is_told_with_the_way_out(no_network, monkeypatch):
    import huggingface_hub

    def snapshot_download(*_, local_files_only, **__):
        raise FileNotFoundError if local_files_only else ConnectionResetError("reset by peer")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *a, **k: None)
    (found,) = problems(fetch_hub, "a/b", "0" * 40, ["*"], "dataset", "data=mini")
    assert "download broke off (reset by peer)" in found
    assert "data=mini" in found


def test_import_stays_light():
    heavy = "{'datasets', 'huggingface_hub', 'pyarrow', 'sklearn', 'scipy', 'torch'}"
    code = f"import sys, dora.data.sources; print(*{heavy}.intersection(sys.modules))"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def readme_table() -> dict[tuple[str, str], tuple[int, str]]:
    """(zip, file) → (official rows, labels), from the table "Rows and labels"."""
    text = (GLUE / "README.md").read_text() if (GLUE / "README.md").is_file() else ""
    found = re.findall(r"^\| `(\S+)` \| (\S+\.tsv) \| \d+ \| (\d+) \| (.+) \|$", text, re.MULTILINE)
    return {(archive, file): (int(rows), labels) for archive, file, rows, labels in found}


@real_data
def test_readme_table_was_found():
    assert len(readme_table()) == 22


def described(task, label: np.ndarray | None) -> str:
    """A label column in the words of the README's table."""
    if label is None:
        return "no labels"
    if task.regression:
        return f"{label.min():.3f}..{label.max():.3f}, mean {label.mean():.3f}"
    names = task.name in ("mnli", "qnli", "rte")
    counts = {task.labels[i] if names else str(i): int((label == i).sum()) for i in range(task.outputs)}
    return ", ".join(f"{name}: {counts[name]}" for name in sorted(counts))


@real_data
@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "stsb", "rte", "wnli"])
def test_real_rows_and_labels_are_those_of_the_readme(name):
    task = TASKS[name]
    for split, rows in read_dir(task, GLUE).items():
        want = readme_table()[f"{task.folder}.zip", f"{split}.tsv"]
        assert (len(rows), described(task, rows.label)) == want
        assert rows.idx.tolist() == list(range(len(rows)))


@real_data
def test_real_ax():
    rows = read_dir(AX, GLUE)["ax"]
    assert len(rows) == readme_table()["AX.tsv", "AX.tsv"][0]
    assert rows.label is None
    assert rows.first[0] == "The cat sat on the mat."


@real_data
@pytest.mark.parametrize(
    ("name", "archive", "split", "stand_ins"),
    [
        ("qnli", "partial/QNLI-dev-test.zip", "dev", ["train"]),
        ("mnli", "partial/MNLI-dev_matched.zip", "dev_matched", ["train", "dev_mismatched"]),
    ],
)
def test_real_partial_tasks(tmp_path, name, archive, split, stand_ins):
    """Splits that are not to be had are stood in for by the head of one that is."""
    task = TASKS[name]
    with zipfile.ZipFile(GLUE / archive) as files:
        files.extractall(tmp_path)
        head = b"".join(files.read(f"{task.folder}/{split}.tsv").splitlines(keepends=True)[:4])
    rows = read_dir(task, write(tmp_path, {f"{task.folder}/{s}.tsv": head for s in stand_ins}))
    assert (len(rows["dev"]), described(task, rows["dev"].label)) == readme_table()[archive, f"{split}.tsv"]


@real_data
def test_real_zip_and_unpacked_have_one_fingerprint(tmp_path):
    with zipfile.ZipFile(GLUE / "CoLA.zip") as archive:
        archive.extractall(tmp_path)
    task = TASKS["cola"]
    assert fingerprint(read_dir(task, tmp_path)) == fingerprint(read_dir(task, GLUE))
