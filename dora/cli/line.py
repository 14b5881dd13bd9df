"""Reads a command line: its options in one spelling, and its settings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from dora.cli.spelling import in_grammar, is_sweep
from dora.errors import UserError
from dora.records.words import key_of

_OPTIONS = (
    "-m (a sweep), --config-dir FOLDER (your own files beside conf/), "
    "--cfg job, --info, --help, --version"
)
_TUNE = "hydra/sweeper=tune"  # the word that dora.tune adds to its own
_TUNE_OPTIONS = (
    "--candidates NUMBER, --seeds SEED,…, --config-dir FOLDER (your own files beside conf/), --help"
)
# Options that Hydra has, each with the reason why it cannot work here and the way out.
_REFUSED = {
    "config_path": "--config-path would take the place of conf/: "
    "--config-dir FOLDER adds your own files to it",
    "config_name": "--config-name would take the place of conf/config.yaml: write what differs "
    "into FOLDER/experiment/mine.yaml, and give --config-dir FOLDER experiment=mine",
    "experimental_rerun": "--experimental-rerun reads a pickle, which may run anything; "
    "run.json has the command to repeat",
    # Hydra's scripts complete `python FILE.py` alone.
    "shell_completion": "--shell-completion does not work with python -m; --help lists keys and "
    "choices",
}


@dataclass(frozen=True)
class Line:
    """Holds a command line as it was typed.

    `overrides`: the settings, in the order typed. `sweeping`: -m. `config_dir`: an absolute path.
    `options`: the other options that Hydra gets.
    """

    overrides: tuple[str, ...]
    sweeping: bool = False
    config_dir: str | None = None
    options: tuple[str, ...] = ()
    help: bool = False
    version: bool = False

    def words(self) -> list[str]:
        """Returns the line as Hydra's own parser takes it, options first."""
        sweep = ["--multirun"] if self.sweeping else []
        folder = [] if self.config_dir is None else [f"--config-dir={self.config_dir}"]
        return [*self.options, *sweep, *folder, *self.overrides]


def read(words: Sequence[str]) -> Line:
    """Reads a command line. Raises UserError that names every option unknown or refused."""
    # Intermixed: argparse otherwise takes no settings after an option that follows settings.
    parser = _parser()
    if _TUNE in words:
        parser.options = _TUNE_OPTIONS
    given, left = parser.parse_known_intermixed_args(list(words))
    if left:  # the unknown options, and the settings after them, which are none
        parser.error(f"unrecognized arguments: {_unrecognized(left, words)}")
    folders = given.config_dir or []
    # Absolute, since the command is recorded and may be repeated from another folder.
    folder = os.path.abspath(os.path.expanduser(folders[-1])) if folders else None
    overrides = tuple(in_grammar(word, given.multirun) for word in given.overrides)
    problems = [text for name, text in _REFUSED.items() if getattr(given, name) is not None]
    if len(folders) > 1:
        problems.append(
            f"--config-dir is given {len(folders)} times; put your files into one folder"
        )
    # abspath("") is the folder where one stands, which nobody means by an empty variable.
    elif folder is not None and not (folders[0].strip() and os.path.isdir(folder)):
        problems.append(f"--config-dir={folders[0]} is no folder")
    problems += _unfit(given, overrides)
    if problems:
        raise UserError(*problems)
    return Line(overrides, given.multirun, folder, _for_hydra(given), given.help, given.version)


def _unrecognized(left: Sequence[str], words: Sequence[str]) -> str:
    """Returns the options among the words that were left over, each with the setting to write.

    `words`: the whole line. `--results=F` and `--results F`, which other commands take, mean
    results=F.
    """
    told = []
    for word in (w for w in left if w.startswith("-")):
        key, equals, value = word.lstrip("-").partition("=")
        (after, *_) = (*words[words.index(word) + 1 :], "-")
        if not equals and not after.startswith("-") and "=" not in after:
            value = after
        told.append(f"{word} (write {key}={value})" if key and value else word)
    return ", ".join(told or left)


def _unfit(given: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """Returns the messages for options that do not fit together, or lack what they need."""
    problems = []
    shown = {
        "--cfg": given.cfg,
        "--info": given.info,
        "-r": given.run,
        "-m": given.multirun,
    }
    # --help wins over all of them, as in Hydra.
    commands = [] if given.help else [option for option, value in shown.items() if value]
    if len(commands) > 1:
        why = "; --cfg shows one configuration, without -m" if given.cfg else ""
        problems.append(f"{' and '.join(commands)} cannot go together{why}")
    if given.resolve and not given.cfg:
        problems.append("--resolve goes with --cfg job")
    if given.package is not None and not given.cfg:
        problems.append("--package goes with --cfg job")
    if not (given.multirun or given.help or given.cfg or given.info or given.hydra_help):
        # Hydra would train the run here, on a cluster's login node say, and call no launcher.
        problems += [
            f"{word}: a launcher begins the runs of a sweep; add -m, also for a single run"
            for word in overrides
            if key_of(word) == "hydra/launcher" and word.partition("=")[2] != "basic"
        ]
    if given.cfg and not given.multirun:
        several = [word for word in overrides if is_sweep(word)]
        problems += [
            f"{word}: --cfg shows one configuration, so give one value" for word in several
        ]
    return problems


def _for_hydra(given: argparse.Namespace) -> tuple[str, ...]:
    """Returns the options that Hydra acts upon, in its spelling."""
    named = {"--cfg": given.cfg, "--info": given.info, "--package": given.package}
    flags = {
        "--resolve": given.resolve,
        "--hydra-help": given.hydra_help,
        "--run": given.run,
    }
    valued = [f"{option}={value}" for option, value in named.items() if value is not None]
    return *valued, *(option for option, value in flags.items() if value)


class _Parser(argparse.ArgumentParser):
    options = _OPTIONS

    def error(self, message: str) -> NoReturn:
        """Raises UserError; argparse itself would print its message and exit."""
        raise UserError(
            f"{message}; settings are written key=value, and the options are {self.options}"
        )


def _parser() -> _Parser:
    # argparse's own --help would list options alone; `usage` also shows every key and choice.
    parser = _Parser(add_help=False, prog="python -m dora.run")
    add = parser.add_argument
    add("overrides", nargs="*")
    for flags in (
        ("-h", "--help"),
        ("--version",),
        ("-m", "--multirun"),
        ("-r", "--run"),
        ("--resolve",),
        ("--hydra-help",),
    ):
        add(*flags, action="store_true")
    add("-sc", "--shell-completion", action="store_const", const=True)
    for flags in (
        ("-cp", "--config-path"),
        ("-cn", "--config-name"),
        ("-p", "--package"),
        ("--experimental-rerun",),
    ):
        add(*flags)
    add("-cd", "--config-dir", action="append")  # all of them, to refuse a second one
    add("-c", "--cfg", choices=["job", "hydra", "all"])
    add(
        "-i",
        "--info",
        nargs="?",
        const="all",
        choices=["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"],
    )
    return parser


def options_of(hydra: Any) -> tuple[str, ...]:
    """Returns the options without which a run's settings mean something else: --config-dir.

    Read from Hydra's configuration, since a job of a cluster sees no command line.
    """
    # Hydra itself marks folders of --config-dir with this provider.
    sources = hydra.runtime.config_sources
    return tuple(f"--config-dir={s.path}" for s in sources if s.provider == "command-line")
