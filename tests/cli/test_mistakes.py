"""Mistakes on the command line: each has one message, which says what to write."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch

import dora
from dora.cli.mistakes import explain
from dora.configuration.config import register
from dora.errors import UserError
from dora.package import CHECKOUT, CONF, PACKAGE
from dora.preparing.prepare import prepare
from runs import command, configure, python, refused, small, typed


def assert_refused(words: list[str], said: list[str]) -> None:
    """Compares the messages on a command line with a part of each."""
    problems = refused(*words)
    assert len(problems) == len(said)
    for problem, part in zip(problems, said, strict=True):
        assert part in problem


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=1,"], ["seed=1,: a value is missing beside a comma"]),
        (["-m", "task=,rte"], ["task=,rte: a value is missing beside a comma"]),
        (["sst2"], ["sst2: settings are written key=value, such as task=sst2"]),
        (
            ["+=3", "lr=fast"],
            ["+=3: settings are written key=value, such as task=sst2", "lr=fast must be a number"],
        ),
        (["jörg=1"], ["jörg=1: jörg is no key; --help and docs/settings.md list the keys"]),
        (["budget=a(b"], ["""as one value write 'budget="a(b"'"""]),
        (
            ["-m", "head_lr=interval(0, 1)"],
            ["this sweeper takes lists (1,2), range() and choice(), no interval()"],
        ),
        (["-m", "seed=range(1, 3, 0)"], ["seed=range(1, 3, 0): range() arg 3 must not be zero"]),
        (
            ["-m", "seed=range(2, 2)", "task=glob(rt*)", "lr=slow"],
            ["seed=range(2, 2): there is no value in it", "lr=slow must be a number"],
        ),
        (["model.path=a${b"], [r"write \${ for the signs themselves"]),
        (
            ["epochs=1e40"],
            ["epochs=1e40 must be a whole number, such as 1000"],
        ),
    ],
)
def test_a_word_that_cannot_be_read_gets_one_message(words: list[str], said: list[str]) -> None:
    assert_refused(words, said)


def test_no_message_names_a_package_that_the_registry_lacks() -> None:
    files = [CHECKOUT / "README.md", *CONF.rglob("*.yaml"), *PACKAGE.rglob("*.py")]
    assert len(files) > 50
    assert not [f for f in files if re.search("install .?dora-glue", f.read_text(encoding="utf-8"))]


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """Returns the option for a user's own experiments: one that is right, the others broken."""
    folder = tmp_path / "my conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\nepochs: 2\n")
    (folder / "broken.yaml").write_text("# @package _global_\nepochs: [\n")
    (folder / "bytes.yaml").write_bytes("# @package _global_\nepochs: 2\n".encode("utf-16"))
    (folder / "typo.yaml").write_text("# @package _global_\nepoch: 2\n")
    (folder / "untitled.yaml").write_text("epochs: 2\n")
    (folder / "deeper.yaml").write_text("# @package _global_\nmodel:\n  pathh: x\n")
    return f"--config-dir={folder.parent}"


def test_explanations_know_the_users_own_files(mine: str) -> None:
    (problem,) = refused(mine, "experiment=mine", "seed=abc")
    assert problem.startswith("seed=abc must be a whole number")
    (problem,) = refused(mine, "experiment=mind")
    assert problem.endswith(", study_tiny, study_tiny_deberta, typo, untitled; did you mean mine?")


def test_a_folder_without_the_kind_of_file_that_is_asked_for_is_named(mine: str) -> None:
    (problem,) = refused(mine, "method=vera")
    assert f"; {mine} holds no method/ folder" in problem
    (problem,) = refused(mine, "experiment=mind")
    assert "holds no" not in problem


@pytest.mark.parametrize("name", ["broken", "bytes", "typo"])
def test_a_users_file_that_cannot_be_used_is_not_called_unknown(name: str, mine: str) -> None:
    (problem,) = refused(mine, f"experiment={name}")
    assert problem.startswith(f"experiment={name}: ")
    assert "choose experiment from" not in problem


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("typo", "there is no key epoch; did you mean epochs?"),
        ("deeper", "there is no key model.pathh; did you mean model.path or model.hub?"),
        ("untitled", "its first line must be: # @package _global_"),
    ],
)
def test_a_users_file_that_does_not_compose_is_told_why(name: str, said: str, mine: str) -> None:
    # Other mistakes of the command are named beside it, and do not change what is said of it.
    first, second = refused(mine, f"experiment={name}", "lrr=1")
    assert first == f"experiment={name}: In 'experiment/{name}': {said}"
    assert second == "lrr=1: there is no key lrr; did you mean lr?"


@pytest.mark.parametrize("sweeping", [(), ("-m",)])
@pytest.mark.parametrize("choice", ["task: rte", "method: lora", "model: minilm", "data: dir"])
def test_a_choice_in_the_body_of_an_experiment_gets_the_line_to_write(
    choice: str, sweeping: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(f"# @package _global_\n{choice}\n")
    (problem,) = refused(*sweeping, f"--config-dir={tmp_path}", "experiment=mine")
    assert f"{choice} chooses nothing in the body of a file" in problem
    assert f"write the line `- override /{choice}` under defaults:" in problem


def test_the_experiment_that_the_page_shows_is_a_grid_with_its_choices(tmp_path: Path) -> None:
    page = (CHECKOUT / "docs/running.md").read_text(encoding="utf-8")
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    mine = (f"--config-dir={tmp_path}", "experiment=mine")
    (problem,) = refused(*mine)
    assert problem.startswith("experiment=mine is a grid of runs over task, seed: add -m")
    code, shown, _ = typed(*mine, "--cfg", "job")
    assert code == 0
    for part in ("name: lora", "tiny_deberta", "max_steps: 600"):
        assert part in shown


def test_a_key_that_has_another_name_today_gets_that_name() -> None:
    for word, meant in (
        ("alpha=16", "method.alpha or fed.alpha"),
        ("r=8", "budget=r8"),
        ("method.rank=8", "budget=r8"),
        ("learning_rate=1e-3", "lr"),
    ):
        (problem,) = explain(["method=lora", word])
        assert problem.endswith(f"did you mean {meant}?")
    said = "group_by_length=false: there is no key group_by_length; did you mean batching?"
    assert refused("group_by_length=false") == [said]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("model=roberta", "did you mean roberta_base or roberta_large?"),
        ("task=SST2", "did you mean sst2?"),
        ("method=adalorra", "did you mean adalora?"),
        ("experiment=lora_roberta_base", "did you mean lora_roberta_base/"),
        ("task=all", "all of them: -m 'task=glob(*)'"),
        ("seed=1-5", "several: -m 'seed=range(1,6)'"),
    ],
)
def test_a_wrong_choice_gets_the_nearest_right_ones(word: str, hint: str) -> None:
    (problem,) = explain([word])
    assert hint in problem.rpartition("; ")[2]


@pytest.mark.parametrize("word", ["task=[mrpc,rte]", "model=[tiny_roberta,tiny_deberta]"])
def test_several_files_of_one_group_are_no_run(word: str) -> None:
    key, _, value = word.partition("=")
    (problem,) = refused(word)
    assert problem == f"{word}: a run has one {key}; several runs: -m {key}={value[1:-1]}"
    with pytest.raises(UserError, match=f"a run has one {key}"):
        dora.train(**{key: value[1:-1].split(",")})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["+experiment=study_tiny"], ["write experiment=study_tiny without +"]),
        (["+task=sst2"], ["write task=sst2 without +"]),
        (["++method=lora"], ["write method=lora without ++"]),
        (["-m", "+task=sst2,rte"], ["write task=sst2 without +", "write task=rte without +"]),
        (["+task=sts"], ["choose task from "]),
        (["-m", "+rates.rte.lora=1e-3,slow"], ["rates.rte.lora"]),
    ],
)
def test_a_choice_is_written_without_a_plus_sign(words: list[str], said: list[str]) -> None:
    assert_refused(words, said)


def test_no_key_is_taken_away_in_a_run_or_a_sweep() -> None:
    words = {
        "~lr": "write lr=null, or leave it out",
        "~results=x": "write results=null, or leave it out",
        "~method=lora": "write method=NAME for another, or leave it out",
        "~": "settings are written key=value",
    }
    for sweep in ([], ["-m"]):
        problems = refused(*sweep, *words)
        assert len(problems) == len(words)
        for problem, (word, part) in zip(problems, words.items(), strict=True):
            assert problem.startswith(f"{word}: ")
            assert part in problem


@pytest.mark.parametrize("word", ["method.name=adalora", "+method.name=adalora"])
def test_a_method_is_not_chosen_by_the_key_that_its_file_states(word: str) -> None:
    # It would train the default method under the name of another.
    name, rate = refused(word, "lr=x")
    assert name == f"{word}: a method's file states its name; write method=adalora"
    assert rate == "lr=x must be a number, such as 1e-3, or null"
    assert refused("-m", word, "seed=1,2") == [name]


@pytest.mark.parametrize("word", ["rates={rte:{lora:1e-3}}", "rates.rte.lora=1e-3"])
def test_a_rate_of_a_task_is_written_with_a_plus_sign(word: str) -> None:
    told = "write +rates.TASK.METHOD=RATE, such as +rates.rte.lora=1e-3"
    assert refused(word) == [f"{word}: {told}"]
    assert configure("+rates.rte.lora=1e-3").rates == {"rte": {"lora": 1e-3}}


@pytest.mark.parametrize("word", ["task=null", "task=5"])
def test_a_choice_that_is_no_name_gets_the_names(word: str) -> None:
    # Hydra itself raises a bare ValueError for these.
    choice, value = refused(word, "lr=x")
    assert choice.startswith(f"{word}: choose task from cola, mnli")
    assert value.startswith("lr=x must be a number")


def test_help_lists_the_users_own_files(mine: str) -> None:
    code, out, err = typed(mine, "--help", "-m", "seed=1,2")
    assert code == 0, err
    assert "\nexperiment: adalora_deberta_v3_base/cola" in out
    assert ", mine, " in out


def test_all_mistakes_of_a_command_come_in_one_message_with_exit_code_2(tmp_path: Path) -> None:
    typos = command(
        "dora.run",
        "task=sst3",
        "methd=lora",
        "lrr=3",
        "method.bet=1",
        "data=dirr",
        "data.dir=GLUE",
        "clip=-1",
        "budget=8",
        f"results={tmp_path}",
    )
    assert typos.returncode == 2
    for part in (
        "choose task from cola",
        "did you mean method",
        "did you mean lr?",
        "did you mean method.beta",
        "choose data from dir",
        "clip=-1.0 must be at least 0",
        "write r8",
    ):
        assert part in typos.stderr, typos.stderr
    # Every part of the message comes from another stage: choices, keys, types, the check.
    assert "data.dir" not in typos.stderr, "a setting of a choice that is not known is not judged"
    # The rest in this process: an interpreter of its own takes seconds to start.
    code, _, values = typed(
        "method=dora",
        "method.beta=1.5",
        "budget=8",
        "lr=-1",
        "schedule=cubic",
        f"results={tmp_path}",
    )
    assert code == 2
    for part in (
        "method.beta=1.5 must lie in [0, 1); the paper uses 0.9",
        "write r8",
        "lr=-1.0 must be above 0",
        "schedule=cubic must be one of linear",
    ):
        assert part in values
    code, _, sweep = typed("-m", "task=rte,sst3", "seed=1,2", "lr=1e-3,fast", f"results={tmp_path}")
    assert code == 2
    assert "choose task from cola" in sweep
    assert "lr=fast" in sweep
    assert "task=rte" not in sweep, "what is right is not called wrong"
    assert "seed" not in sweep.replace("'seed=1,2'", "")
    code, _, single = typed("task=rte,sst2", f"results={tmp_path}")
    assert code == 2
    assert "task=rte,sst2: several values make a sweep, which needs -m" in single
    for said in (typos.stderr, values, sweep, single):
        assert said.startswith("bad configuration:"), "the message is all there is"
        assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_a_setting_that_not_every_method_of_a_sweep_has_is_named_with_those_that_lack_it() -> None:
    register()
    problems = explain(["method=lora,dora,full", "method.dem=0.1", "lr=-1,1e-3"], sweeping=True)
    assert len(problems) == 2
    assert problems[0].startswith("method.dem=0.1: there is no key method.dem")
    assert problems[0].endswith("(with method=lora, method=full)")
    assert problems[1].startswith("lr=-1.0 must be above 0")


def test_a_setting_that_not_every_experiment_has_is_named_with_those_that_lack_it() -> None:
    register()
    words = ["experiment=lora_roberta_base/rte,dora_roberta_base", "method.dem=3", "data.dir=GLUE"]
    first, *_ = explain(words, sweeping=True)
    assert first.startswith("method.dem=3: there is no key method.dem")
    assert first.endswith("(with experiment=lora_roberta_base/rte)")


def test_every_value_of_a_sweep_is_judged_wherever_it_stands() -> None:
    register()
    # One row a value would try alpha=abc with the wrong method alone, and not judge it.
    problems = explain(["method=methd,lora", "method.alpha=abc,8", "seed=1,x"], sweeping=True)
    assert [problem.split()[0] for problem in problems] == [
        "method=methd:",
        "method.alpha=abc",
        "seed=x",
    ]


def test_a_grid_is_not_taken_for_one_run_of_it(tmp_path: Path) -> None:
    words = [
        "experiment=study_tiny",
        "data.dir=GLUE",
        f"results={tmp_path}",
        "task=rte",
        "method=lora",
    ]
    (grid,) = refused(*words)
    assert "experiment=study_tiny is a grid of runs over task, method, budget, seed: add -m" in grid
    # Task and method are typed, so they need not be said again.
    assert "say which one with budget=… seed=…" in grid
    (one,) = refused(*words, "budget=r2", "seed=1")
    assert one.startswith("data.dir=GLUE")


def test_an_unreachable_hub_is_reported_within_ten_seconds(tmp_path: Path) -> None:
    began = time.monotonic()
    done = python(
        "-m",
        "dora.run",
        "model=roberta_base",
        "data=hub",
        f"results={tmp_path}",
        HF_ENDPOINT="http://127.0.0.1:9",  # the discard port: nobody listens
        HF_HOME=str(tmp_path / "hf"),
    )
    assert done.returncode == 2
    for part in ("data=dir", "data=mini", "model.path="):
        assert part in done.stderr, done.stderr
    # 10 s on two free cores; the hub client alone would retry for 47 s after start-up.
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["data=dir", "data.dir=nowhere", "lr=-1", "model.path=nomodel"],
            ["data.dir=nowhere", "lr=-1.0", "nomodel"],
        ),
        (
            ["+lrr=1", "++method.zeta=2"],
            ["+lrr: there is no key lrr", "+method.zeta: there is no key method.zeta"],
        ),
        (["data=dir"], ["data=dir needs data.dir=FOLDER"]),
        (["budget=900M"], ["larger than this model", "at most r128"]),
        (["budget=0.1k"], ["less than the smallest component of this model (384 parameters)"]),
        (["method=dora", "max_steps=2"], ["leave no pruning window in a run of 2 steps"]),
        (["method=adalora", "max_steps=3"], ["do not fit a run of 3 steps"]),
        (
            ["init_from=nowhere"],
            ["init_from must be the directory of a finished run: nowhere holds no run.json"],
        ),
        (["warmup=24", "max_steps=24"], ["warmup=24 must be less than the run's 24 steps"]),
        (
            ["warmup=inf", "weight_decay=inf", "seed=9223372036854775808"],
            ["warmup=inf", "weight_decay=inf", "seed=92"],
        ),
        (
            ["data=dir", "data.dir=", "results="],
            ["data=dir needs data.dir=FOLDER", "results= must name a folder"],
        ),
        (
            ["warmup=1.5"],
            ["warmup=1.5 must be a fraction of the run below 1, or whole steps from 2"],
        ),
        (["warmup=-1"], ["warmup=-1.0 must be at least 0: a fraction of the run below 1"]),
        (["max_length=600"], ["longer than this model's 128 positions"]),
        (
            ["target=[q,w]", "epochs=0", "clip=-1"],
            ["target=q,w must be all or some of q", "epochs=0", "clip=-1.0"],
        ),
    ],
)
def test_a_mistake_names_the_value_and_the_rule_and_writes_nothing(
    words: list[str], parts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        prepare(configure("task=sst2", f"results={tmp_path / 'results'}", *words))
    for part in parts:
        assert part in str(caught.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("devices", "device", "message"),
    [(0, "cuda:0", "no CUDA device here"), (2, "cuda:2", "2 CUDA devices here, cuda:0 to cuda:1")],
)
def test_a_device_that_is_not_there_is_told_before_anything_is_loaded(
    devices: int, device: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    with pytest.raises(UserError, match=message):
        prepare(small(tmp_path, f"device={device}"))
