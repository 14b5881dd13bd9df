"""Where the files of a task are looked for: folders, zips, and shapes that are not quite GLUE's."""

import pytest
from glue_files import SST2, problems, write, write_zip

from dora.data.sources import read_dir
from dora.data.tasks import AX, TASKS


@pytest.mark.parametrize("place", ["AX.tsv", "diagnostic.tsv", "AX/AX.tsv", "diagnostic/diagnostic.tsv"])
def test_ax_wherever_the_official_download_puts_it(tmp_path, place):
    rows = read_dir(AX, write(tmp_path, {place: "index\tsentence1\tsentence2\n0\tp\th\n"}))["ax"]
    assert (rows.first, rows.second, rows.label) == (["p"], ["h"], None)


def test_ax_in_a_zip(tmp_path):
    text = "index\tsentence1\tsentence2\n0\tp\th\n"
    assert len(read_dir(AX, write_zip(tmp_path, "AX.zip", {"AX/AX.tsv": text}))["ax"]) == 1


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
