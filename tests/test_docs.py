"""Every command in README, docs and results composes or parses.

Commands are checked without training: a configuration is composed and checked, any other command's
line is parsed by the command itself.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from dora.__main__ import COMMANDS
from dora.cli.choices import composing
from dora.cli.composer import Composer
from dora.cli.grammar import single_values
from dora.cli.line import Line, read
from dora.configuration.check import check
from dora.configuration.config import register
from dora.errors import reason
from dora.package import CONF
from runs import load_script

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
# What was measured, and by which commands.
PAGES += sorted([*(ROOT / "results").glob("*.md"), ROOT / "results/bench/README.md"])
# As text: Python 3.10 has no reader of TOML.
PROJECT = (ROOT / "pyproject.toml").read_text().partition("[project.urls]")[0]
EXTRAS = set(re.findall(r"^(\w+) = \[", PROJECT.partition("[project.optional")[2], re.MULTILINE))
PACKAGES = set(re.findall(r'"([\w-]+)[\[>]', PROJECT))
# Lines of other programs, word for word: nothing here can check them.
OTHERS = {
    ". .venv/bin/activate",
    "nvidia-cuda-mps-control -d",
    "rm -r results/mine/cache",
    "tensorboard --logdir results/runs",
    "unset WORLD_SIZE RANK",
    'python -c "import dora; print(dora.__file__)"',
}
REMOTE = ("git", "hf", "pip", "wandb", "uv", "docker")  # programs that need a network
SHELL = re.compile(r"^(?:[A-Z_]+=\S+ )+")  # variables that are set for one command
VARIABLE = re.compile(r'^([A-Z]+)="?([^"]*?)"?$')  # one that is set for the commands below it


@dataclass(frozen=True)
class Command:
    """A command on a page: its text, and what the comment beside or above it says that it needs."""

    page: str
    text: str
    needs: str

    @property
    def words(self) -> list[str]:
        """The words as a shell reads them, without variables that are set before."""
        return shlex.split(SHELL.sub("", self.text))


def blocks(text: str) -> Iterator[str]:
    """Yields the indented blocks of a page, without fenced ones."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for found in re.finditer(r"(?:^    .*\n|(?<=\n)\n(?=    ))+", text, re.MULTILINE):
        yield re.sub(r"^    ", "", found[0], flags=re.MULTILINE).strip("\n")


def commands(page: Path) -> Iterator[Command]:
    """Yields the commands of a page, of blocks and, where they are whole, of sentences.

    A comment `# needs …` above counts for the whole block. In a sentence nobody marks a network.
    """
    for text in re.findall(r"`((?:python -m dora\.|make |pip install )[^`]*)`", page.read_text()):
        if "…" not in text and "NAME" not in text:
            yield Command(page.name, " ".join(text.split()), "# needs a network")
    for block in blocks(page.read_text()):
        if block.startswith(("results/runs/<data>", "def ")):  # a listing of files, Python
            continue
        above = ""
        held: dict[str, str] = {}  # variables of the shell, which later lines of the block read
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("#"):
                above = line
            elif found := VARIABLE.match(line):
                held[found[1]] = found[2]
            elif line and "…" not in line and not line.startswith("..."):  # a whole command
                text, _, beside = Template(line).safe_substitute(held).partition(" #")
                for part in text.split(" && "):
                    needs = " ".join(w for w in (above, f"#{beside}") if "needs" in w)
                    yield Command(page.name, part.strip(), needs)


# Each once: pages repeat some.
ALL = list(dict.fromkeys(command for page in PAGES for command in commands(page)))


def rows(words: list[str], sweeping: bool) -> list[list[str]]:
    """Returns settings of single values in which each value of a sweep occurs once or more."""
    held = [single_values(word) if sweeping else [word] for word in words]
    return [
        [values[i % len(values)] for values in held] for i in range(max(map(len, held), default=1))
    ]


class Parsed(Exception):
    """Ends a command when its line has been read; holds the words that it left."""


def parsing(
    main: Callable[[], Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Returns the words that a command's own parser leaves over. A mistake ends in SystemExit."""
    parse = argparse.ArgumentParser.parse_known_args

    def known(self: argparse.ArgumentParser, args: Any = None, space: Any = None) -> Any:
        _, left = parse(self, args, space)
        raise Parsed(left)

    def whole(self: argparse.ArgumentParser, args: Any = None, space: Any = None) -> Any:
        _, left = parse(self, args, space)
        if left:
            self.error(f"unrecognized arguments: {left}")
        raise Parsed([])

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["", *words])
        patch.setattr(argparse.ArgumentParser, "parse_known_args", known)
        patch.setattr(argparse.ArgumentParser, "parse_args", whole)
        with pytest.raises(Parsed) as found:
            main()
    return list(found.value.args[0])


@functools.cache
def grid(experiment: str) -> frozenset[str]:
    """Returns the keys over which an experiment sweeps; none without one."""
    file = CONF / "experiment" / f"{experiment}.yaml"
    held = OmegaConf.load(file)
    keys = set(OmegaConf.select(held, "hydra.sweeper.params") or {})
    included = [d for d in held.get("defaults", []) if isinstance(d, str) and d.startswith("/exp")]
    return frozenset(keys.union(*(grid(name.removeprefix("/experiment/")) for name in included)))


def settings_problems(line: Line, needs: str, composer: Composer, search: bool) -> list[str]:
    """Returns the problems of a line of dora.run, or with `search` of dora.tune."""
    check_launcher(line)
    problems = []
    own = [word for word in line.overrides if not word.startswith(("hydra/", "hydra."))]
    several = line.sweeping or search
    for row in rows(own, several):
        # These files hold a name alone. As a value it takes no composition of its own; `check`
        # knows the names.
        values = [re.sub(r"^task=", "task.name=", word) for word in row]
        config = composer([re.sub(r"^data=", "data.source=", word) for word in values])
        problems += check(config)
        model, data = config.model, config.data
        remote = (model.hub and not model.path) or (data.source == "hub" and not data.dir)
        if remote and not (line.options or line.help) and "network" not in needs:
            problems.append("reads from the hub, and no comment says that it needs a network")
        experiment = next((w.partition("=")[2] for w in row if w.startswith("experiment=")), None)
        given = {word.partition("=")[0] for word in row}
        if experiment and not several and grid(experiment) - given:
            problems.append(f"{experiment} is a grid of runs, and -m is missing")
    return problems


@functools.cache
def launcher(choice: str) -> DictConfig:
    """Returns the settings of a launcher, such as `hydra/launcher=slurm`."""
    held = compose("config", overrides=[choice], return_hydra_config=True).hydra.launcher
    OmegaConf.set_struct(held, True)
    return held


def check_launcher(line: Line) -> None:
    """Raises for a launcher that is not there, and for a setting that is none of its own."""
    choice, *own = [w for w in line.overrides if w.startswith(("hydra/", "hydra."))] or [""]
    held = launcher(choice) if choice else None
    for word in own:
        key, _, value = word.removeprefix("hydra.launcher.").partition("=")
        OmegaConf.update(held, key, type(held[key])(value) if held.get(key) else value)


def problems_of(command: Command, composer: Composer, patch: pytest.MonkeyPatch) -> list[str]:
    """Returns what is wrong with a command; a wrong option raises."""
    words, needs = command.words, command.needs
    if command.text in OTHERS or SHELL.sub("", command.text) in OTHERS:
        return []
    program, *rest = words
    if program == "cd":
        return []
    if program in REMOTE:
        return [*of_remote(words), *([] if "network" in needs else ["needs a network"])]
    if program == "make":
        return of_make(rest)
    if program == "dora-glue":
        if rest == ["--help"]:
            return []
        if rest[0] not in COMMANDS:
            return [f"dora-glue has no command {rest[0]}"]
        program, rest = "python", ["-m", f"dora.{rest[0]}", *rest[1:]]
    if program == "bash":
        return [] if (ROOT / rest[0]).is_file() else [f"{rest[0]} is not there"]
    if program != "python":
        return [f"{program} is a program that this test does not know"]
    if rest[0] != "-m":
        parsing(load_script(Path(rest[0]).stem).main, rest[1:], patch)
        return []
    name, rest = rest[1], rest[2:]
    if name == "dora.torchrun":
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(rest)
        name, rest = given.training_script, given.training_script_args
    if name == "pytest":
        return [] if (ROOT / rest[0]).is_file() else [f"{rest[0]} is not there"]
    search = name == "dora.tune"
    if search:
        rest = parsing(importlib.import_module(name).main, rest, patch)
    if not search and name != "dora.run":
        parsing(importlib.import_module(name).main, rest, patch)
        return []
    # A file that the page tells its reader to write.
    return [] if "files" in needs else settings_problems(read(rest), needs, composer, search)


def of_make(words: list[str]) -> list[str]:
    """Returns a problem for each target and variable that the Makefile does not have."""
    text = (ROOT / "Makefile").read_text()
    known = set(re.findall(r"^(\w[\w-]*):", text, re.MULTILINE))
    known |= {f"{name}=" for name in re.findall(r"^(\w+) \?=", text, re.MULTILINE)}
    return [f"make {w}" for w in words if re.sub("=.*", "=", w) not in known]


def of_remote(words: list[str]) -> list[str]:
    """Returns a problem for each extra or package that pyproject.toml does not name."""
    if words[:2] != ["pip", "install"]:
        return []
    problems = []
    for word in (w for w in words[2:] if w != "-e"):
        name, _, asked = word.rstrip("]").partition("[")
        wrong = set(filter(None, asked.split(","))) - EXTRAS
        if wrong or (name != "." and re.split("[<>=]", name)[0] not in PACKAGES):
            problems.append(f"pip install {word}")
    return problems


def all_problems(given: list[Command], patch: pytest.MonkeyPatch) -> list[str]:
    """Returns the problems of all commands, each with its page and text."""
    register()
    GlobalHydra.instance().clear()
    # Which trackers and devices there are is no matter of the pages.
    patch.setattr("dora.process.requirements.problems", lambda *_: [])
    found = []
    with composing(None):
        composer = Composer(GlobalHydra.instance().config_loader())
        for command in given:
            try:
                problems = problems_of(command, composer, patch)
            # A wrong key or option: each library has an exception of its own.
            except (Exception, SystemExit) as e:
                problems = [reason(e)]
            found += [f"{command.page}: {command.text}: {p}" for p in problems]
    return found


def test_every_command_on_a_page_composes_or_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(ALL) > 80
    assert all_problems(ALL, monkeypatch) == []


# The page that explains the options of a command.
EXPLAINED = {
    "status": "running",
    "tune": "tuning",
    "tables": "tables",
    "plots": "tables",
    "report": "tables",
    "collect": "tables",
    "export": "sharing",
    "submit": "sharing",
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_option_of_a_command_is_on_its_page(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsers: list[argparse.ArgumentParser] = []
    parse = argparse.ArgumentParser.parse_known_args

    def known(self: argparse.ArgumentParser, args: Any = None, space: Any = None) -> Any:
        parsers.append(self)
        return parse(self, args, space)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", known)
    monkeypatch.setattr(sys, "argv", ["", "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(f"dora.{name}").main()
    text = (ROOT / "docs" / f"{EXPLAINED[name]}.md").read_text()
    options = {o for a in parsers[0]._actions for o in a.option_strings if o.startswith("--")}
    missed = [o for o in options - {"--help"} if not re.search(rf"{o}\b(?!-)", text)]
    assert missed == []


MISTYPED = (
    "python -m dora.run task=sst3",
    "python -m dora.run -m task=rte,mrpc method=lora,dorra",
    "python -m dora.run task=rte methd=lora",
    "python -m dora.run method=dora method.bet=0.5",
    "python -m dora.run task=rte batch_size=0",
    "python -m dora.run experiment=study_tiny data.dir=GLUE",
    "python -m dora.run -m hydra/launcher=slurm hydra.launcher.partitionn=P task=rte",
    "python -m dora.run hydra/launcher=local task=rte",
    "python -m dora.run task=rte model=roberta_base",
    "python -m dora.tune task=rte --candidate 6 --seedz 1",
    "python -m dora.tables --wheer lr=1",
    "python -m dora.torchrun --nproc_pre_node=2 -m dora.run task=rte",
    "python scripts/paired.py a b --buy x",
    "python -m dora.bench --sizes tiny",
    "dora-glue tabels",
    "make tabels",
    "make tables RESULT=x",
    "pip install -e '.[figure]'",
    "pip install matplotlip",
    "curl example.org",
)


def test_a_mistyped_command_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = all_problems([Command("page", text, "") for text in MISTYPED], monkeypatch)
    missed = [t for t in MISTYPED if not any(p.startswith(f"page: {t}: ") for p in problems)]
    assert missed == []
