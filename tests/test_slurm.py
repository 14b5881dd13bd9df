"""A study on a real SLURM of one node, whose jobs are preempted, time out and are cancelled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dora.records import gaps, study
from dora.records.directories import directories
from runs import same_files

pytestmark = pytest.mark.slurm
SCRIPT = Path(__file__).parents[1] / "scripts" / "slurm_one_node.sh"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Gives the environment variables with which this machine is a cluster; skips without root."""
    if os.geteuid() != 0:
        pytest.skip("a SLURM of our own needs root")
    # Installed once on a machine, and left there; only the cluster itself is taken down afterwards.
    if shutil.which("slurmctld") is None:
        done = subprocess.run([SCRIPT, "install"], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"slurm-wlm and munge cannot be installed here: {done.stderr[-200:]}")
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SCRIPT, "up", folder], check=True)
    yield {
        **os.environ,
        "SLURM_CONF": f"{folder}/slurm.conf",
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
    }
    subprocess.run([SCRIPT, "down", folder], check=False)


# A limit of a minute, told 25 s before its end: a long run is stopped in good order and requeued.
ON_CLUSTER = (
    "hydra/launcher=slurm",
    "hydra.launcher.partition=low",
    "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=4",
    "hydra.launcher.timeout_min=1",
    "hydra.launcher.signal_delay_s=25",
)


def launch(results: Path, *more: str) -> list[str]:
    """Returns the command of a study of six runs."""
    # Three short ones, and three that need more than their minute.
    lengths = ["max_steps=60,400", "eval_every=30", "threads=1"]
    words = ["task=rte", "method=lora,adalora,dora", *lengths, f"results={results}", *more]
    return [sys.executable, "-m", "dora.run", "-m", *words]


def resumed_and_equal(alone: Path, results: Path) -> int:
    """Asserts that both studies' runs are equal; returns how many of `results` were resumed."""
    resumed = 0
    for path in directories(alone):
        there = results / path.relative_to(alone)
        one, two = (json.loads((folder / "run.json").read_text()) for folder in (path, there))
        assert one["results"] == two["results"], path.name
        resumed += bool(two["resumed_from"])
        same_files(path, there)
    return resumed


def wait(what: str, condition: Callable[[], Any], seconds: float = 600) -> Any:
    """Returns the first true value of `condition`; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)
    return value


def test_a_study_survives_preemption_a_time_limit_and_a_cancelled_job(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    def slurm(*words: str) -> str:
        return subprocess.run(
            words, env=cluster, capture_output=True, text=True, check=False
        ).stdout

    def jobs(state: str) -> list[str]:
        return slurm("squeue", "--noheader", "--states", state, "--format", "%i", "--array").split()

    def seen(state: str) -> list[study.Seen]:
        return [s for s in gaps.scan(results) if s.state == state]

    # Three disturbances of one study, one after the other. Each waits for the state it needs: what
    # happens when is the cluster's affair.
    results, alone = tmp_path / "cluster", tmp_path / "alone"
    on_cluster = launch(results, *ON_CLUSTER)
    first = subprocess.Popen(
        on_cluster, env=cluster, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait("a run past its first checkpoint", lambda: [s for s in seen("running") if s.step])
    # A job of a higher partition takes both places, so the study's jobs are preempted.
    subprocess.run(
        ["srun", "--partition=high", "--ntasks=2", "sleep", "1"], env=cluster, check=True
    )
    wait("a preempted run", lambda: [s for s in seen("stopped") if s.step] or seen("stale"))
    victim = wait("a requeued job", lambda: jobs("RUNNING"))[0]
    wait("a run at work again", lambda: [s for s in seen("running") if s.step])
    slurm("scancel", victim)
    out, errors = first.communicate(timeout=1800)
    # A job cancelled at work leaves its run stopped in good order. One whose run has not begun
    # never answers.
    assert first.returncode in (1, 75), out + errors
    assert "1 stopped" in out or "the launcher ended with" in out
    # Requeued jobs of the first command may still be at work; a second one would find runs in use.
    wait("the other jobs", lambda: not slurm("squeue", "--noheader"), 1800)
    again = subprocess.run(on_cluster, env=cluster, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "6 runs: 6 done" in again.stdout

    # Without a cluster: where a run is trained must not show in its files.
    subprocess.run(
        launch(alone, "hydra/launcher=local", "hydra.launcher.n_jobs=2"),
        check=True,
        capture_output=True,
    )
    # Every long run met at least its time limit.
    assert resumed_and_equal(alone, results) >= 3
