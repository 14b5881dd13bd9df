"""Files from the hub: from its cache, downloaded, or a clear error within seconds."""

import time
from pathlib import Path

import pytest
from glue_files import problems, write

from dora.data import hub
from dora.data.hub import fetch_hub


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Sets an empty cache, and an endpoint on which nothing listens; gives the cache's path."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cached(cache: Path, *files: str) -> Path:
    """Makes a cached snapshot as an interrupted or another program's download leaves it."""
    return write(cache / "models--a--b" / "snapshots" / ("0" * 40), dict.fromkeys(files, "x"))


def test_unreachable_hub_is_told_within_10_s_with_the_way_out(no_network):
    start = time.perf_counter()
    (found,) = problems(
        fetch_hub, "nyu-mll/glue", "0" * 40, ["rte/*"], "dataset", "data=dir or data=mini"
    )
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
    (found,) = problems(
        fetch_hub, "a/b", "0" * 40, ["config.json", "*.safetensors|*.bin"], "model", "-"
    )
    assert "not whole" in found


def test_a_cached_snapshot_that_is_not_whole_to_its_reader_is_fetched_again(
    no_network, monkeypatch
):
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
    assert "download broke off (ConnectionResetError: reset by peer)" in found
    assert "data=mini" in found
