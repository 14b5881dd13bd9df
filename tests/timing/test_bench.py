"""Each contender trains what it should, and ratios are taken within rounds."""

import argparse
import json
import math
import sys
from typing import Any

import pytest
import torch

from dora import bench
from dora.configuration.method_choice import packaged
from dora.errors import RunFailed
from dora.methods.released import RELEASED
from dora.timing import options, setting
from dora.timing.candidates import CONTENDERS, OTHERS, OURS, PHASES, UNTIMED, contender, loop_of
from dora.timing.measure import SHARES, _whole_runs, measure, ratio, series
from dora.timing.setting import TOTAL, Setting, Times
from dora.timing.whole_run import Runs

# One layer, wide enough for twelve components in each of four blocks: a step takes milliseconds.
SMALL = Setting("small", 0.1, batch=4, length=8, threads=1)


@pytest.fixture(autouse=True)
def _small_size(monkeypatch):
    # Bottleneck adapters at the bench's budget are 96 wide, and may not be wider than the model.
    monkeypatch.setitem(setting.SIZES, "small", ("roberta", 1, 128, 256, 2, 60))


def test_the_floor_trains_the_head_alone_and_its_gradient_passes_the_whole_backbone():
    # As far as an adapter in the first layer needs it, or ours would be compared with too little.
    loop, at = loop_of(SMALL, "floor")
    before = {n: p.detach().clone() for n, p in loop.setup.model.named_parameters()}
    loop.train_step(at + 1)
    changed = {n for n, p in loop.setup.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == set(loop.setup.head)
    reached = []

    def listen(module, given, out):
        out.register_hook(lambda g: reached.append(g.abs().sum().item()))

    loop.setup.model.roberta.embeddings.register_forward_hook(listen)
    loop.train_step(at + 2)
    assert reached[0] > 0


@pytest.mark.parametrize("method", ["adalora", "dora"])
def test_the_phases_of_a_method_are_those_of_its_run(method):
    ranks = {}
    for phase in PHASES:
        loop, at = loop_of(SMALL, f"{method} {phase}")
        decisions = []  # of the one step below
        after_step = loop.setup.method.after_step
        loop.setup.method.after_step = lambda step, f=after_step, d=decisions: (
            d.append(f(step)) or d[-1]
        )
        loop.train_step(at + 1)
        ranks[phase] = sum(layer.rank for layer in loop.setup.method.layers.values())
        assert (decisions[0] is not None) == (phase == "allocating")
        assert (at >= loop.setup.method.ranks_final_at) == (phase == "after")
    # Six matrices in the one layer. Allocation masks components first, and removes them in the end.
    assert ranks == {"before": 6 * 12, "allocating": 6 * 12, "after": 6 * 8}


def test_a_run_s_phases_have_the_shares_that_its_schedule_gives():
    for method in ("adalora", "dora"):
        loop, _ = loop_of(SMALL, f"{method} before")
        m: Any = loop.setup.method
        steps = range(1, TOTAL + 1)
        # The step that allocation begins after, by the two methods' names for it.
        begin = getattr(m, "start", None) or m.t_i
        inside = [s for s in steps if begin < s <= m.ranks_final_at]
        allocating = len(inside) // m.interval / TOTAL
        after = sum(s > m.ranks_final_at for s in steps) / TOTAL
        assert SHARES["allocating"] == pytest.approx(allocating, abs=0.003)
        assert SHARES["after"] == pytest.approx(after, abs=0.003)
    assert sum(SHARES.values()) == pytest.approx(1)


def test_a_ratio_is_the_median_of_the_ratios_within_rounds():
    # The second round is slow for both: the ratio of medians would be another.
    times = {
        "floor": [Times(1, 2), Times(10, 10), Times(2, 2)],
        "a": [Times(3, 2), Times(11, 30), Times(4, 8)],
    }
    assert ratio(times, "a", "floor", "wall") == 2  # of 3, 1.1 and 2
    assert ratio(times, "a", "floor", "cpu") == 3  # of 1, 3 and 4


def test_contenders_take_turns_and_the_first_changes():
    turns = []
    fake = {name: lambda count, name=name: turns.append(name) or Times(1, 1) for name in "abc"}
    series(fake, 3, 1)
    assert "".join(turns) == "abcbcacab"


def test_every_method_can_be_timed_but_those_with_a_reason():
    federated = {name for name in RELEASED if packaged(name).kind.federated}
    assert {*federated, "xgblora"} == UNTIMED
    assert {name.split()[0] for name in (*OURS, *OTHERS)} == RELEASED.keys() - UNTIMED


@pytest.mark.filterwarnings("ignore")  # PEFT's and the Trainer's
@pytest.mark.parametrize(
    "names",
    [
        ("floor", "products", "lora", *(f"dora {phase}" for phase in PHASES), "PEFT LoRA"),
        pytest.param((*CONTENDERS, *OTHERS), marks=pytest.mark.slow),
    ],
)
def test_every_contender_runs_and_is_measured(names):
    figures = measure(SMALL, names, rounds=1, steps=1, repeats=1)
    assert figures["floor"]["wall_ratio"] == 1  # by itself, in every round
    phases = [figures[f"dora {phase}"]["wall_s"] for phase in PHASES]
    assert min(phases) <= figures["dora run"]["wall_s"] <= max(phases)
    assert figures["products"]["of_matmul"] == 1  # the products need what they do
    for f in figures.values():
        assert f["gflops"] == pytest.approx(f["flops"] / f["cpu_s"] / 1e9)
        assert 0 < f["wall_s"] < 10  # seconds, not milliseconds
        assert math.isfinite(f["cpu_ratio"])
    assert figures["PEFT LoRA"]["tokens_s"] == pytest.approx(32 / figures["PEFT LoRA"]["wall_s"])


@pytest.mark.filterwarnings("ignore")
def test_pefts_lora_trains_as_many_parameters_as_ours():
    # Both hand what they train to AdamW, ours in groups.
    found = []
    original = torch.optim.AdamW
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.optim, "AdamW", lambda groups, **k: found.append(groups) or original(groups, **k)
        )
        contender(SMALL, "PEFT LoRA")
        contender(SMALL, "lora")
    theirs = sum(p.numel() for p in found[0])
    assert theirs == sum(p.numel() for group in found[1] for p in group["params"])


def test_the_command_writes_tables_with_machine_and_versions(tmp_path, monkeypatch, capsys):
    words = "--size small --dropout 0 --only lora --rounds 1 --steps 1 --repeats 1 --threads 1"
    words += f" --batch 4 --length 8 --to {tmp_path / 'b.json'}"
    monkeypatch.setattr(sys, "argv", ["bench", *words.split()])
    bench.main()
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["versions"]["torch"] == torch.__version__
    assert len(found["load_before"]) == 3
    (table,) = found["tables"]
    # The floor and the products without being asked for.
    assert list(table["figures"]) == ["floor", "products", "lora"]
    assert "| lora     |" in capsys.readouterr().out


def test_candidates_of_two_precisions_take_turns_and_compare_with_the_floor_of_fp32(
    tmp_path, monkeypatch, capsys
):
    words = "--size small --dropout 0 --only lora --rounds 1 --steps 1 --repeats 1 --threads 1"
    words += f" --batch 4 --length 8 --precision auto fp32 --to {tmp_path / 'b.json'}"
    monkeypatch.setattr(sys, "argv", ["bench", *words.split()])
    monkeypatch.setattr(bench, "automatic", lambda device: "bf16")  # as on some processors
    bench.main()
    (table,) = json.loads((tmp_path / "b.json").read_text())["tables"]
    figures = table["figures"]
    names = ["floor", "products", "lora"]
    assert list(figures) == [*names, *(f"{name}, bf16" for name in names)]
    # One round, so ratios are those of the two times; shares go by the own precision's products.
    assert figures["lora, bf16"]["wall_ratio"] == pytest.approx(
        figures["lora, bf16"]["wall_s"] / figures["floor"]["wall_s"]
    )
    assert figures["products, bf16"]["of_matmul"] == figures["products"]["of_matmul"] == 1
    assert figures["lora, bf16"]["of_matmul"] == pytest.approx(
        figures["lora, bf16"]["gflops"] / figures["products, bf16"]["gflops"]
    )
    assert "dropout 0, fp32 and bf16, cpu" in capsys.readouterr().out


def test_a_candidate_named_bf16_is_built_in_bf16():
    s, name = setting.in_precision(SMALL, "dora before, bf16")
    assert (s.precision, name) == ("bf16", "dora before")
    assert setting.in_precision(SMALL, "dora before") == (SMALL, "dora before")


def test_a_run_s_line_weighs_the_phases_of_its_own_precision():
    figures = {
        f"dora {phase}{of}": {
            **dict.fromkeys(("wall_s", "cpu_s", "wall_ratio", "cpu_ratio", "over_products"), time),
            "flops": 1,
        }
        for of, time in (("", 1.0), (", bf16", 2.0))
        for phase in PHASES
    }
    lines = _whole_runs(figures)
    assert {name: line["wall_s"] for name, line in lines.items()} == {
        "dora run": pytest.approx(1),
        "dora run, bf16": pytest.approx(2),
    }


def test_the_help_fits_a_screen_and_states_every_default(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = options.parser()
    lines = parser.format_help().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    assert all("default" in str(action.help) for action in shown)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--batch 0 --threads 2 0 --repeats 0", "--batch 0 must be 1 or more; --threads 0 must"),
        ("--length 513", "--length 513: the models take 512 tokens at most"),
        ("--dropout 0 1 --backbone-dropout nan", "--dropout 1 must lie in [0, 1); --backbone-"),
        ("--device gpu", "--device gpu must be cpu, cuda or cuda:N"),
        ("--device cuda:99", "--device cuda:99: no such GPU here"),
        ("--data /nope", "--data /nope: no such folder"),
        ("--to .", "--to . is a folder; name a file"),
        ("--to {file}/b.json", "{file} cannot be written to"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(words, said, tmp_path, monkeypatch, capsys):
    (file := tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["bench", *words.format(file=file).split()])
    monkeypatch.setattr(bench, "_measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 2
    assert said.format(file=file) in capsys.readouterr().err


def test_figures_that_the_disk_does_not_take_are_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--to", str(tmp_path / "b.json")])
    monkeypatch.setattr(bench, "_measure", lambda given, found: found.update(tables=[1]))

    def full(*_):
        raise OSError(28, "No space left on device", "b.json")

    monkeypatch.setattr(bench, "write_atomic", full)
    with pytest.raises(SystemExit, match=r"b\.json cannot be written: No space left"):
        bench.main()
    assert json.loads(capsys.readouterr().out)["tables"] == [1]


def test_figures_measured_before_a_failure_are_written_beside_whole_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", "--to", str(tmp_path / "b.json"), "--run"])
    (tmp_path / "b.json").write_text("of an hour ago")
    figures = iter([{"lora": {}}])

    def timed(runs, say):
        if (found := next(figures, None)) is None:
            raise RunFailed("the second one diverged")
        return found

    monkeypatch.setattr(bench, "whole_runs", timed)
    monkeypatch.setattr(bench, "runs_table", lambda *_: [])
    monkeypatch.setattr(
        bench.options,
        "runs",
        lambda given: [Runs("sst2", "tiny_roberta", "mini", 1, 1, ("fp32",))] * 2,
    )
    with pytest.raises(RunFailed, match="the second one diverged"):
        bench.main()
    assert (tmp_path / "b.json").read_text() == "of an hour ago"
    (part,) = json.loads((tmp_path / "b-part.json").read_text())["runs"]
    assert part["figures"] == {"lora": {}}


def test_the_clock_waits_for_the_gpu_that_is_measured(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    setting.clock(Setting("small", 0.0, device="cuda:1"))
    assert waited == ["cuda:1"]
