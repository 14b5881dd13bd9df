"""Every YAML composes without a problem, and the experiments have the papers' numbers.

The numbers are typed here a second time, from the scripts that the papers' authors released, and
from the papers' tables where scripts and papers differ.
"""

import functools
import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

from conftest import METHODS
from dora.adapters.budget import Budget, Matrix
from dora.analysis.published import numbers
from dora.backbones import backbone
from dora.backbones.model_config import read_config
from dora.configuration.check import check
from dora.configuration.config import Config, from_hydra, register
from dora.methods.base import RunInfo
from dora.methods.released import RELEASED
from dora.preparing.federation import Federation

CONF = Path(__file__).parents[1] / "conf"
EXPERIMENTS = sorted(
    f.relative_to(CONF / "experiment").with_suffix("").as_posix()
    for f in (CONF / "experiment").rglob("*.yaml")
)
COMMON = [e for e in EXPERIMENTS if e.endswith("/_common")]
STUDIES = [e for e in EXPERIMENTS if "study" in e]
RUNS = [e for e in EXPERIMENTS if e not in (*COMMON, *STUDIES)]
# The models that come as a package, which the methods' rates, for models of base size, do not suit.
SMALL = sorted(
    f.stem
    for f in (CONF / "model").glob("*.yaml")
    if re.search("^(embedded|package): ", f.read_text(), re.MULTILINE)
)

# Training rows of the official GLUE, as the hub has them.
ROWS = {
    "cola": 8551,
    "sst2": 67349,
    "mrpc": 3668,
    "stsb": 5749,
    "qqp": 363846,
    "mnli": 392702,
    "qnli": 104743,
    "rte": 2490,
}
# The 72 adapted linears of a base-size model: q, k, v, o and the two of the feed-forward, 12 times.
BASE = tuple(
    Matrix(f"{layer}.{i}", d_in, d_out)
    for layer in range(12)
    for i, (d_in, d_out) in enumerate([(768, 768)] * 4 + [(768, 3072), (3072, 768)])
)

# microsoft/LoRA, examples/NLU/*.sh: task, lr, epochs, examples per GPU x GPUs, length.
LORA = {
    "lora_roberta_base": """
        mnli 5e-4 30 16x8 512    sst2 5e-4 60 16x8 512    mrpc 4e-4 30 16x8 512
        cola 4e-4 80 32x2 512    qnli 4e-4 25 32x8 512    qqp  5e-4 25 16x8 512
        rte  5e-4 80 32x8 512    stsb 4e-4 40 16x8 512""",
    "lora_roberta_large": """
        mnli 3e-4 10 4x8 128     sst2 4e-4 10 8x8 512     mrpc 3e-4 20 4x8 512
        cola 3e-4 20 4x8 128     qnli 2e-4 10 4x8 512     qqp  3e-4 20 4x8 512
        rte  4e-4 20 8x8 512     stsb 3e-4 10 4x8 128""",
}
# QingruZhang/AdaLoRA, NLU/scripts/*.sh: task, lr, epochs, length, warm-up, initial rank, alpha,
# orthogonality, t_i, t_f, interval, head dropout, weight decay, steps between evaluations.
ADALORA = """
    mnli 5e-4   7  256 1000 3 16 .1 8000 50000 100 .15 0   3000
    sst2 8e-4   24 128 1000 2 16 .1 6000 22000 100 0   .01 3000
    cola 8e-4   25 64  100  3 32 .1 800  3500  10  .10 0   100
    qqp  8e-4   5  320 2000 2 16 .1 8000 25000 100 .15 .01 3000
    qnli 5e-4   5  512 500  2 32 .1 2000 8000  100 .1  .01 1000
    rte  1.2e-3 50 320 200  2 32 .3 600  1800  1   .20 .01 100
    mrpc 1e-3   30 320 .1   2 32 .1 600  1800  1   0   .01 300
    stsb 2.2e-3 25 128 100  2 32 .3 800  2000  10  .2  .1  100"""

# What the papers print, where the files have the scripts' numbers. LoRA's Table 9: task, lr, epochs,
# batch (a GPU's, by the tasks in which it is the scripts'), length.
TABLE_9 = {
    "lora_roberta_base": """
        mnli 5e-4 30 16 512    sst2 5e-4 60 16 512    mrpc 4e-4 30 16 512
        cola 4e-4 80 32 512    qnli 4e-4 25 32 512    qqp  5e-4 25 16 512
        rte  5e-4 80 32 512    stsb 4e-4 40 16 512""",
    "lora_roberta_large": """
        mnli 3e-4 10 4 128     sst2 4e-4 10 4 128     mrpc 3e-4 20 4 512
        cola 2e-4 20 4 128     qnli 2e-4 10 4 512     qqp  3e-4 20 4 512
        rte  4e-4 20 8 512     stsb 2e-4 30 8 512""",
}
# AdaLoRA's Table 8: task, lr, epochs, orthogonality, t_i, t_f, interval.
TABLE_8 = """
    mnli 5e-4   7  .1 8000 50000 100    sst2 8e-4   24 .1 6000 22000 100
    cola 5e-4   25 .5 800  3500  10     qqp  5e-4   5  .1 8000 25000 100
    qnli 1.2e-3 5  .1 2000 8000  100    rte  1.2e-3 50 .3 600  1800  1
    mrpc 1e-3   30 .1 600  1800  1      stsb 2.2e-3 25 .1 800  2000  10"""

# MELoRA's run_glue_lora.sh: task, lr, epochs, batch, length. CoLA's epochs are the paper's.
MELORA = """
    mnli 5e-4 30 128 256     sst2 5e-4 60 128 256     mrpc 4e-4 30 128 256
    cola 4e-4 80 64  256     qnli 4e-4 25 128 256     qqp  4e-4 25 128 256
    rte  4e-4 80 128 512     stsb 4e-4 40 128 256"""
# Experiments of one file: task, method, model, budget, then lr, epochs, batch, length, warm-up,
# weight decay, clip, head's rate.
ONE_FILE = {
    "bitfit_roberta_base": ("rte bitfit roberta_base r8", 1e-3, 16, 8, 128, 0, 0, 1, None),
    "sora_deberta_v3_base": (
        "stsb sora deberta_v3_base r8",
        8e-4,
        20,
        8,
        128,
        0.06,
        0.1,
        0.1,
        None,
    ),
    "houlsby_roberta_large": ("mnli houlsby roberta_large r2", 3e-4, 5, 256, 128, 0.1, 0, 1, None),
    "pfeiffer_roberta_large": (
        "mnli pfeiffer roberta_large r2",
        3e-4,
        5,
        256,
        128,
        0.1,
        0,
        1,
        None,
    ),
}


FEDIT = ("cola", "mrpc", "qnli", "rte", "sst2", "stsb")  # the tasks of FedEx-LoRA's table


def table(text: str, width: int) -> list[list[str]]:
    """Returns the words of `text` in rows of `width`."""
    words = text.split()
    return [words[i : i + width] for i in range(0, len(words), width)]


LORA_ROWS = [(family, *row) for family, text in LORA.items() for row in table(text, 5)]
ADALORA_ROWS = table(ADALORA, 14)
MELORA_ROWS = table(MELORA, 5)


def printed() -> dict[str, dict[str, float]]:
    """Returns, by experiment, the settings that its paper prints."""
    found: dict[str, dict[str, float]] = {}
    gpus = {(family, task): int(batch.split("x")[1]) for family, task, *_, batch, _ in LORA_ROWS}
    for family, text in TABLE_9.items():
        for task, lr, epochs, batch, length in table(text, 5):
            whole = int(batch) * gpus[family, task]
            alpha = {"lora_roberta_base": 8, "lora_roberta_large": 16}[family]
            values = (float(lr), int(epochs), whole, int(length), 0.06, alpha)
            keys = ("lr", "epochs", "batch_size", "max_length", "warmup", "method.alpha")
            found[f"{family}/{task}"] = dict(zip(keys, values, strict=True))
    own = ("orthogonality", "init_warmup", "final_warmup", "mask_interval")
    keys = ("lr", "epochs", *(f"method.{key}" for key in own))
    for task, *values in table(TABLE_8, 7):
        numbers = map(float, values)
        found[f"adalora_deberta_v3_base/{task}"] = dict(zip(keys, numbers, strict=True))
    # Table 9 again: the adapters with 0.8M on MNLI. Its warm-up is 0.06 in every row.
    for name, passes in (("houlsby", 10), ("pfeiffer", 5)):
        found[f"{name}_roberta_large"] = {"lr": 3e-4, "epochs": passes, "warmup": 0.06}
    # FedEx-LoRA's Table 7, one column for all tasks.
    numbers = {"lr": 1e-3, "batch_size": 128, "max_length": 512, "warmup": 0.6}
    numbers |= {"weight_decay": 0.01, "method.dropout": 0.1, "method.alpha": 8}
    return found | {f"fedit_roberta_base/{task}": numbers for task in FEDIT}


PRINTED = printed()


@pytest.fixture(scope="module", autouse=True)
def hydra_conf():
    """Makes the repository's conf/ Hydra's search path for all tests of this file."""
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@functools.cache  # a composition takes 0.2 s
def composed(*overrides: str) -> Config:
    """Composes a configuration from command-line words."""
    return from_hydra(compose("config", overrides=list(overrides)))


def steps(config: Config) -> int:
    """Returns the optimizer steps of a run on the official training set."""
    epochs = config.epochs * math.ceil(ROWS[config.task.name] / config.batch_size)
    return config.max_steps or epochs


def header(experiment: str) -> list[str]:
    """Returns the comment lines that a file begins with, after the line that Hydra reads."""
    first, *lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert first == "# @package _global_"
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return lines[:end]


# So that no experiment escapes the comparison with its script.
def test_every_experiment_is_in_a_table_here():
    listed = [f"{row[0]}/{row[1]}" for row in LORA_ROWS]
    listed += [f"adalora_deberta_v3_base/{row[0]}" for row in ADALORA_ROWS]
    listed += [f"melora_roberta_base/{row[0]}" for row in MELORA_ROWS]
    listed += [f"fedit_roberta_base/{task}" for task in FEDIT]
    assert sorted([*listed, "dora_roberta_base", *ONE_FILE]) == RUNS


@pytest.mark.parametrize(
    "file", sorted(CONF.rglob("*.yaml")), ids=lambda f: f.relative_to(CONF).as_posix()
)
def test_every_yaml_composes_without_a_problem(file):
    whole = file.relative_to(CONF).with_suffix("").as_posix()
    group, _, choice = whole.rpartition("/") if whole.startswith("hydra/") else whole.partition("/")
    overrides = [f"{group}={choice}"] if choice else []
    # These are made to be completed by the command line.
    if (group, choice) == ("data", "dir") or (group == "experiment" and "study" in choice):
        overrides.append("data.dir=GLUE")
    assert check(composed(*overrides)) == []


@pytest.mark.parametrize(("family", "task", "lr", "epochs", "batch", "length"), LORA_ROWS)
def test_lora_has_the_scripts_numbers(family, task, lr, epochs, batch, length):
    c = composed(f"experiment={family}/{task}")
    per_gpu, gpus = batch.split("x")
    assert (c.task.name, c.method_name, c.data_name) == (task, "lora", "hub")
    assert c.model.name == family.removeprefix("lora_")
    assert (c.lr, c.epochs, c.max_length) == (float(lr), int(epochs), int(length))
    assert c.batch_size == int(per_gpu) * int(gpus)
    m = c.chosen.settings
    assert (c.budget, m.alpha, m.dropout, c.targets()) == ("r8", 16, 0, ("q", "v"))
    assert (c.warmup, c.weight_decay, c.schedule, c.clip, c.seed) == (0.06, 0.1, "linear", 1, 0)
    assert (c.head_lr, c.head_dropout, c.eval_every, c.max_steps) == (None, None, None, None)
    assert f"{per_gpu} examples on each of {gpus} GPUs" in " ".join(header(f"{family}/{task}"))


@pytest.mark.parametrize("row", ADALORA_ROWS, ids=lambda row: row[0])
def test_adalora_has_the_scripts_numbers(row):
    task, *numbers = row
    c = composed(f"experiment=adalora_deberta_v3_base/{task}")
    m = c.chosen.settings
    place = c.task.name, c.method_name, c.model.name, c.data_name
    assert place == (task, "adalora", "deberta_v3_base", "hub")
    # In the table's order. At r1 the initial rank is the start factor itself.
    found = [c.lr, c.epochs, c.max_length, c.warmup, m.start_factor, m.alpha, m.orthogonality]
    found += [m.init_warmup, m.final_warmup, m.mask_interval]
    found += [c.head_dropout, c.weight_decay, c.eval_every]
    assert found == [float(n) for n in numbers]
    assert (c.budget, c.batch_size, c.seed, c.target) == ("r1", 32, 6, "all")
    assert (m.dropout, m.beta1, m.beta2, m.remove) == (0, 0.85, 0.85, False)
    # Else the schedule would have no window to prune in.
    assert steps(c) > m.init_warmup + m.final_warmup


@pytest.mark.parametrize("experiment", PRINTED)
def test_a_file_tells_how_to_type_what_its_paper_prints_otherwise(experiment):
    def differing(*words):
        """Returns the settings with other values than the paper prints."""
        c = composed(f"experiment={experiment}", *words)
        flat = dict(vars(c)) | {f"method.{k}": v for k, v in vars(c.chosen.settings).items()}
        return {key for key, value in PRINTED[experiment].items() if flat[key] != value}

    family = f"{experiment.partition('/')[0]}/_common"
    lines = header(experiment) + (header(family) if family in COMMON else [])
    quoted = re.findall("`([^`]+)`", " ".join(line.lstrip("# ") for line in lines))
    said = [words.split() for words in quoted if all("=" in word for word in words.split())]
    keys = {word.partition("=")[0] for words in said for word in words}
    # No more than what differs, and with all of it the paper's numbers.
    assert keys & set(PRINTED[experiment]) == differing()
    assert differing(*(word for words in said for word in words)) == set()


def test_dora_has_the_released_numbers():
    c = composed("experiment=dora_roberta_base")
    m = c.chosen.settings
    place = c.task.name, c.method_name, c.model.name, c.data_name
    assert place == ("cola", "dora", "roberta_base", "hub")
    assert (c.budget, c.lr, c.epochs, c.batch_size, c.max_length) == ("r8", 1.48e-4, 15, 16, 128)
    # The released code rounds the warm-up down, where a fraction here is rounded up.
    assert (c.warmup, c.weight_decay, c.clip) == (int(0.06 * 8025), 0.01, 1)
    assert (c.target, c.seed) == ("all", 1)
    assert (c.decay_all, c.batching, steps(c)) == (True, "random", 8025)
    assert (m.alpha, m.dropout, m.dem, m.beta, m.start_factor) == (8, 0.1, 0.1, 0.9, 1.5)
    assert (m.prune_start, m.prune_end, m.prune_interval, m.shape) == (0.15, 0.5, 100, "cubic_late")
    assert not m.remove


@pytest.mark.parametrize(("task", "lr", "epochs", "batch", "length"), MELORA_ROWS)
def test_melora_has_the_scripts_numbers(task, lr, epochs, batch, length):
    c = composed(f"experiment=melora_roberta_base/{task}")
    place = c.task.name, c.method_name, c.model.name, c.data_name
    assert place == (task, "melora", "roberta_base", "hub")
    found = c.lr, c.epochs, c.batch_size, c.max_length
    assert found == (float(lr), int(epochs), int(batch), int(length))
    assert c.head_lr == c.lr / 2
    assert (c.warmup, c.weight_decay, c.decay_all, c.clip, c.seed) == (0.06, 0.01, True, 1, 42)
    m = c.chosen.settings
    assert (c.budget, m.alpha, m.dropout, m.blocks, c.targets()) == ("r8", 16, 0.05, 2, ("q", "v"))


@pytest.mark.parametrize("task", FEDIT)
def test_fedit_trains_three_epochs_of_a_clients_rows_in_each_of_fifty_rounds(task):
    c = composed(f"experiment=fedit_roberta_base/{task}")
    place = c.task.name, c.method_name, c.model.name, c.data_name
    assert place == (task, "fedit", "roberta_base", "hub")
    m = c.chosen.settings
    assert (c.budget, c.targets(), m.alpha, m.dropout) == ("r4", ("q", "v"), 8, 0.1)
    found = c.lr, c.batch_size, c.max_length, c.warmup, c.schedule, c.seed
    assert found == (1e-3, 128, 128, 0.06, "linear", 42)
    f = Federation.of(c.fed, np.zeros(ROWS[task]), c.seed, steps(c))
    assert (len(f.rows), f.selected, f.rounds, c.fed.restart) == (3, 3, 50, "round")
    assert f.local_steps == 3 * math.ceil(max(map(len, f.rows)) / 128)
    assert f.total_steps == steps(c)


@pytest.mark.parametrize("experiment", ONE_FILE)
def test_an_experiment_of_one_file_has_the_released_numbers(experiment):
    place, *numbers = ONE_FILE[experiment]
    c = composed(f"experiment={experiment}")
    assert f"{c.task.name} {c.method_name} {c.model.name} {c.budget}" == place
    found = [c.lr, c.epochs, c.batch_size, c.max_length, c.warmup, c.weight_decay, c.clip]
    assert [*found, c.head_lr] == numbers
    assert (c.data_name, c.batching, c.seed) == ("hub", "random", 0)
    assert c.schedule == ("constant" if experiment.startswith("bitfit") else "linear")


def test_sora_has_the_scripts_numbers():
    m = composed("experiment=sora_deberta_v3_base").chosen.settings
    assert (m.alpha, m.dropout, m.l1_weight, m.xi, m.gate_lr_ratio) == (16, 0, 10, 3e-4, 1)
    assert (m.prox, m.start_factor, m.shrink_until) == ("released", 1, "end")


@pytest.mark.parametrize("name", ["houlsby", "pfeiffer"])
def test_adapters_have_the_scripts_bottlenecks_activations_and_frozen_norms(name):
    m = composed(f"experiment={name}_roberta_large").chosen.settings
    activation = {"houlsby": "swish", "pfeiffer": "relu"}[name]
    assert (m.activation, m.init_std, m.dropout, m.layer_norm) == (activation, 0.02, 0, False)


@pytest.mark.parametrize("experiment", RUNS)
def test_schedule_fits_the_official_rows(experiment):
    c = composed(f"experiment={experiment}")
    # A window in steps fits a run of a certain length; the header says which.
    assert c.chosen.settings.problems(steps(c)) == []
    assert f"{steps(c):,} steps." in " ".join(header(experiment))


def test_dora_settings_fit_every_task():
    c = composed("experiment=dora_roberta_base")
    assert composed("experiment=dora_roberta_base", "task=rte").task.name == "rte"
    for rows in ROWS.values():
        assert c.chosen.settings.problems(c.epochs * math.ceil(rows / c.batch_size)) == []


def start_and_end(c: Config) -> tuple[set[int], int]:
    """Returns an AdaLoRA run's start ranks and components at the end, on a base-size model."""
    plan = c.chosen.kind.plan(c.chosen.settings, Budget.parse(c.budget), BASE, RunInfo(100, 3))
    return set(plan.start), plan.target


@pytest.mark.parametrize("row", ADALORA_ROWS, ids=lambda row: row[0])
def test_adalora_starts_at_the_scripts_rank_and_ends_at_1(row):
    found = start_and_end(composed(f"experiment=adalora_deberta_v3_base/{row[0]}"))
    assert found == ({int(row[5])}, 72)


@pytest.mark.parametrize("task", ["cola", "sst2"])  # the scripts start CoLA at rank 3, SST-2 at 2
@pytest.mark.parametrize(
    ("budget", "factor", "start", "end"),
    [("r2", 2, 4, 144), ("r4", 1.5, 6, 288), ("r8", 1.5, 12, 576)],
)
def test_adalora_has_the_budgets_of_the_paper(task, budget, factor, start, end):
    words = (f"budget={budget}", f"method.start_factor={factor}")
    found = start_and_end(composed(f"experiment=adalora_deberta_v3_base/{task}", *words))
    assert found == ({start}, end)
    # The file's header tells how to type them.
    assert " ".join(words) in " ".join(header("adalora_deberta_v3_base/_common"))


def test_adaloras_rows_of_table_1_are_those_that_are_published():
    text = " ".join(line.lstrip("# ") for line in header("adalora_deberta_v3_base/_common"))
    said = re.search(r"Its rows of AdaLoRA, (\S+) and (\S+), end at average ranks 2 and 8", text)
    rows = {n.params for n in numbers() if n.method == "adalora" and "Table 1" in n.source}
    assert said
    assert set(said.groups()) == rows
    page = (CONF.parent / "docs/reproducing.md").read_text()
    line = next(line for line in page.splitlines() if "`adalora_deberta_v3_base/TASK`" in line)
    assert set(re.findall(r"\((\d\.\d+M)\)", line)) == rows
    # Components of these numbers can have these sizes.
    c = composed("experiment=adalora_deberta_v3_base/sst2")
    for budget, size in (("r2", said[1]), ("r8", said[2])):
        plan = c.chosen.kind.plan(c.chosen.settings, Budget.parse(budget), BASE, RunInfo(100, 3))
        _, (low, high) = plan.end_range()
        assert low < 1e6 * float(size.removesuffix("M")) < high


@pytest.mark.parametrize("experiment", [*RUNS, *COMMON])
def test_file_begins_with_its_command(experiment):
    command = f"# python -m dora.run experiment={experiment.replace('_common', 'TASK')}"
    if experiment.startswith("lora_") and experiment.endswith(("/mrpc", "/rte", "/stsb")):
        command += " init_from=RUN"  # the scripts start these three from MNLI's adapter
    assert header(experiment)[0] == command


# One of each family: an experiment's values stand in other files than the base configuration's, and
# Hydra lets the later file win.
FAMILIES = ["lora_roberta_base/cola", "lora_roberta_large/sst2", "adalora_deberta_v3_base/rte"]


@pytest.mark.parametrize("experiment", [*FAMILIES, "dora_roberta_base"])
def test_command_line_wins_over_the_experiment(experiment):
    words = "seed=3", "lr=1e-2", "epochs=2", "method.alpha=5", "target=[k]", "budget=r3"
    choices = "task=wnli", "model=minilm", "data=mini"
    c = composed(f"experiment={experiment}", *words, *choices, "max_length=33")
    assert (c.seed, c.lr, c.epochs, c.chosen.settings.alpha, c.targets()) == (3, 0.01, 2, 5, ("k",))
    assert (c.task.name, c.model.name, c.data_name) == ("wnli", "minilm", "mini")
    assert (c.budget, c.max_length) == ("r3", 33)
    # An experiment typed after a value does not undo it.
    assert composed("lr=1e-2", f"experiment={experiment}").lr == 0.01


@pytest.mark.parametrize("name", ["lora_roberta_base/sst3", "lora_roberta_base", "nothing"])
def test_unknown_experiment_fails(name):
    with pytest.raises(HydraException, match=f"experiment/{name}"):
        composed(f"experiment={name}")


@pytest.mark.parametrize("experiment", [e for e in STUDIES if e != "_study"])
def test_a_study_is_one_command_with_equal_evaluations_and_parameters(experiment):
    assert header(experiment)[0] == f"# python -m dora.run -m experiment={experiment} data.dir=GLUE"
    whole = compose(
        "config", overrides=[f"experiment={experiment}", "data.dir=GLUE"], return_hydra_config=True
    )
    # The sweep's axes are Hydra's own configuration, not the run's.
    swept = {key: str(values).split(",") for key, values in whole.hydra.sweeper.params.items()}
    assert set(swept["method"]) <= set(METHODS)
    c = composed(f"experiment={experiment}", "data.dir=GLUE")
    if c.rates_from is None:
        assert set(c.rates) == set(swept["task"])
        assert all(set(rates) == set(swept["method"]) for rates in c.rates.values())
    assert (c.batch_size, c.select, c.results) == (32, "dev", f"results/{experiment}")
    assert c.max_steps <= 1500
    # The evaluations that count: three, from the step that all methods share.
    counting = range(c.max_steps // 2 + 2, c.max_steps + 1)
    assert len([step for step in counting if step % c.eval_every == 0]) == 3
    if c.model.package and importlib.util.find_spec(c.model.package) is None:
        pytest.skip(f"needs {c.model.package}")
    # The budgets are the parameters of LoRA at ranks 2 and 8 on this model.
    matrices = BASE
    if c.model.hub is None:
        folder = backbone.locate(embedded=c.model.embedded, package=c.model.package)
        matrices = backbone.find_linears(read_config(folder.path), c.targets())
    sizes = [str(sum(m.cost * n for m in matrices)) for n in (2, 8)]
    assert set(swept["budget"]) <= set(sizes)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_model_has_a_rate_for_every_method_or_says_for_which_not(name):
    model = composed(f"model={name}").model
    rates = model.own.lr if model.embedded else model.lr
    lacking = {method for method in RELEASED if rates.get(method) is None}
    text = (CONF / "model" / f"{name}.yaml").read_text()
    [said] = re.findall(r"# No rate for (.*?):", text) or [""]
    assert set(filter(None, said.split(", "))) == lacking


@pytest.mark.parametrize(
    ("method", "roberta", "deberta"),
    [
        ("fedit", 4e-3, 2e-3),
        ("ffa_lora", 4e-3, 8e-3),
        ("lora_fair", 2e-3, 8e-3),
        ("xgblora", 8e-3, 8e-3),
        ("pfeiffer", 2e-3, 2e-3),
    ],
)
def test_an_embedded_model_trains_at_the_rate_that_was_best_on_it(method, roberta, deberta):
    assert composed(f"method={method}").learning_rate() == roberta
    assert composed(f"method={method}", "model=tiny_deberta").learning_rate() == deberta


def test_rates_count_for_their_task_and_method_unless_lr_is_given():
    words = ("task=rte", "method=lora", "model=minilm", "+rates={rte:{lora:7e-4}}")
    assert composed(*words).learning_rate() == 7e-4
    assert "rates" not in composed(*words).resolved()
    assert composed(*words, "method=dora").learning_rate() == 2e-3  # the model's
    assert composed(*words, "task=cola").learning_rate() == 1e-3
    assert composed(*words, "lr=5e-3").learning_rate() == 5e-3
    # Two mistakes, a rate below 0 and a task that is none, in two messages.
    wrong = check(composed("+rates={rte:{lora:-1.0},sst:{dora:1e-3}}"))
    assert len(wrong) == 2
    assert "rates.rte={'lora': -1.0}" in wrong[0]
    assert "rates: sst must be among the tasks" in wrong[1]
