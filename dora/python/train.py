"""`dora.train`: one run of the suite, as `python -m dora.run` trains it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose

from dora.cli.choices import composing
from dora.cli.composer import of_a_run
from dora.cli.job import check_grid
from dora.cli.mistakes import explain, is_mistake
from dora.cli.spelling import in_grammar, quoted
from dora.configuration.config import Config, from_hydra, register
from dora.configuration.method_choice import MethodChoice
from dora.configuration.method_class import refuse_edited
from dora.errors import UserError
from dora.preparing.prepare import prepare
from dora.python.restored import restored
from dora.records.schema import Run
from dora.training.one_run import run
from dora.training.unless_done import train_unless_done

_PLAIN = re.compile(r"[\w.+/~-]+")  # needs no quotes in Hydra's grammar


@dataclass(frozen=True, repr=False)
class Trained:
    """A finished run: its directory, and its record, the content of run.json.

    A run whose record was packed (`dora.collect`) has a temporary directory without weights.
    """

    folder: Path
    record: Run

    @property
    def scores(self) -> dict[str, float]:
        """The best evaluation's scores by metric, as fractions."""
        best = self.record["results"]["best"]
        return {k: v for k, v in best.items() if isinstance(v, float)}

    @property
    def adapter(self) -> Path:
        """The adapter in PEFT's format; there for methods that leave one."""
        return self.folder / "adapter"

    def __repr__(self) -> str:
        """Returns a line: a notebook shows it, and a whole record would fill the screen."""
        scores = ", ".join(f"{name} {value:.4f}" for name, value in self.scores.items())
        return f"<finished run: {scores}; {self.folder}>"


def train(
    task: str | None = None,
    method: str | None = None,
    budget: str | None = None,
    config_dir: str | Path | None = None,
    **settings: Any,
) -> Trained:
    """Trains a run as `python -m dora.run` does, unless it is done; goes on with one that was cut.

    `task`, `method`, `budget`: where one is None, what `experiment` says, or else sst2, dora and r8.
    `config_dir`: a folder of your own files beside conf/, as --config-dir. `settings`: every other
    key of the command line; a dot is spelled as two underscores, so that `data__dir="GLUE"` is
    `data.dir=GLUE`. Lines and a progress bar are shown as by the command. The process is left as
    it was: random generators, threads, warnings, environment.

    Raises UserError with every mistake in the settings, RunFailed where the run ends without a
    result, and Stopped where a signal or Ctrl-C ended it: the same call goes on from there.
    """
    first = {"task": task, "method": method, "budget": budget}
    given = {key: value for key, value in first.items() if value is not None}
    words = _words({**given, **settings})
    with restored():
        folder = _absolute(config_dir)
        config = _config(words, folder)
        refuse_edited(config.chosen.kind)
        prepared = prepare(config, typed=words)
        options = [] if folder is None else [f"--config-dir={folder}"]
        typed = [*options, *prepared.words(words)]
        return Trained(
            *train_unless_done(prepared, lambda: run(prepared, typed), print, "force=True")
        )


def method_of(name: str, config_dir: str | Path) -> MethodChoice:
    """Returns a method with its defaults, as `train` finds it in conf/ and in `config_dir`.

    Raises UserError for a name that neither has, for no folder, and for a YAML or a class that
    cannot be used.
    """
    with restored():
        return _config(_words({"method": name}), _absolute(config_dir)).chosen


def _absolute(config_dir: str | Path | None) -> str | None:
    """Returns the folder's absolute path, which is recorded. Raises UserError if it is none."""
    if config_dir is None:
        return None
    folder = Path(config_dir).expanduser().absolute()
    if not (str(config_dir).strip() and folder.is_dir()):
        raise UserError(f"config_dir={config_dir} is no folder")
    return str(folder)


def _config(words: Sequence[str], config_dir: str | None) -> Config:
    """Returns the configuration. Raises UserError with every mistake in the words."""
    register()
    try:
        with composing(config_dir):
            cfg = compose("config", overrides=list(words), return_hydra_config=True)
            check_grid(cfg.hydra)
            return from_hydra(of_a_run(cfg))
    except Exception as e:
        if not is_mistake(e):
            raise
        raise UserError(*(explain(list(words), config_dir=config_dir) or [str(e)])) from e


def _words(settings: dict[str, Any]) -> list[str]:
    """Returns settings as the words of a command line."""
    return [_word(key.replace("__", "."), value) for key, value in settings.items()]


def _word(key: str, value: Any) -> str:
    """Returns one setting as a word; a path or a name as the command line takes it."""
    plain = f"{key}={value}"
    if isinstance(value, str | Path) and (written := in_grammar(plain, False)) != plain:
        return written
    return f"{key}={_spelled(value)}"


def _spelled(value: Any) -> str:
    """Returns a value as Hydra's grammar has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_spelled, value))}]"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else quoted(text)
