"""Writes docs/settings.md from the configuration's dataclasses and the comments in conf/.

    python scripts/settings_page.py            # writes the page
    python scripts/settings_page.py --check    # exit code 1 if the page is out of date

A key's default is the dataclass's or the YAML's, its meaning a line of the dataclass's docstring or
the comment beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from dora.cli.choices import choices
from dora.configuration.config import Config
from dora.configuration.groups import DataConfig, FedConfig, ModelConfig, OwnConfig
from dora.files import write_atomic
from dora.methods.released import RELEASED
from dora.package import CONF

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
GROUPS: dict[str, tuple[str, type]] = {
    "model": ("Model", ModelConfig),
    "model.own": ("An embedded model's own", OwnConfig),
    "data": ("Data", DataConfig),
    "fed": ("Federated rounds", FedConfig),
}
# Keys that choose a file, or hold a table of their own here.
CHOICES = {"task", "method", "model", "data", "fed", "own"}
# One meaning in a docstring: a line that begins with `key`: and the lines that go on with it.
ENTRY = re.compile(r"^`(\w+)`: (.*?)(?=\n`\w+`: |\n\n|\Z)", re.MULTILINE | re.DOTALL)
# One line of a YAML: its key, its value, and the comment that it ends with.
LINE = re.compile(r"^(\w+): ?(.*?)(?:\s+# (.*))?$")

HEAD = """\
# Settings

<!-- Made by scripts/settings_page.py; a test compares. Edit conf/ or the docstrings instead. -->

Every key, its default and its meaning. A key is typed as `key=value`, a method's as
`method.KEY=value`; `null` stands for no value. `python -m dora.run --help` prints the same keys with
their values, and with `experiment=NAME --help` those of an experiment. Choices of files (`task`,
`method`, `model`, `data`, `experiment`) are explained in [running.md](running.md#choices).

    python -m dora.run task=sst2 method=dora method.dropout=0.0 --help
"""


def meanings(kind: type) -> dict[str, str]:
    """Returns the meaning of each key that a dataclass's docstring explains."""
    text = inspect.getdoc(kind) or ""
    return {key: " ".join(said.split()) for key, said in ENTRY.findall(text)}


def default(field: dataclasses.Field[Any]) -> str:
    """Returns a field's default as YAML has it; `required` without one."""
    made = field.default_factory
    value = field.default if made is dataclasses.MISSING else made()
    if value == MISSING or value is dataclasses.MISSING:
        return "required"
    if isinstance(value, dict):
        value = {key: rate for key, rate in value.items() if rate is not None}
    return spelled(value)


def spelled(value: Any) -> str:
    """Returns a value as it is typed: true, null, 0.1."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {spelled(held)}" for key, held in value.items()) + "}"
    return str(value)


def row(key: str, value: str, meaning: str) -> str:
    """Returns one line of a table in Markdown."""
    held = f"`{value}`" if value not in ("", "required") else value
    return f"| `{key}` | {held} | {meaning} |"


def section(title: str, text: str, rows: list[str]) -> str:
    """Returns a heading, a sentence and a table."""
    head = ["| key | default | meaning |", "|---|---|---|"]
    return "\n".join([f"## {title}", "", *([text, ""] if text else []), *head, *rows])


def of_dataclass(kind: type, prefix: str = "") -> list[str]:
    """Returns a line for each key of a dataclass. Raises KeyError for one without a meaning."""
    known = meanings(kind)
    return [
        row(f"{prefix}{f.name}", default(f), known[f.name])
        for f in dataclasses.fields(kind)
        if f.name not in CHOICES
    ]


def of_yaml(file: Path, prefix: str) -> tuple[str, list[str]]:
    """Returns the comment that a YAML begins with, and a line for each key that it sets.

    A comment on lines of its own counts for the key below it.
    """
    held = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(held, dict)
    head: list[str] = []
    above: list[str] = []
    rows: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            # A line that is indented is a command.
            text = f"`{line[1:].strip()}`" if line.startswith("#   ") else line[2:]
            (above if rows else head).append(text)
        elif (found := LINE.match(line)) and (key := found[1]) not in ("defaults", "name"):
            if key != "_target_":
                said = found[3] or " ".join(above)
                rows.append(row(f"{prefix}{key}", found[2] or spelled(held[key]), said))
            above = []
    return " ".join(head), rows


def models() -> Iterator[str]:
    """Yields a line for each file of conf/model: its name and where its weights come from."""
    yield "## Models"
    yield ""
    yield "| `model=` | weights | revision |"
    yield "|---|---|---|"
    for name in choices("model", None):
        held = OmegaConf.load(CONF / "model" / f"{name}.yaml")
        assert isinstance(held, DictConfig)
        place = f"`{held.hub}`" if held.get("hub") else "`model.hub=ORG/NAME`"
        if held.get("package"):
            place = f"Python package `{held.package}`"
        elif held.get("embedded"):
            place = "embedded in this package"
        yield f"| `{name}` | {place} | {str(held.get('revision', ''))[:12]} |"


def page() -> str:
    """Returns the whole page."""
    parts = [HEAD, section("Run", "", of_dataclass(Config))]
    for group, (title, kind) in GROUPS.items():
        parts.append(section(title, "", of_dataclass(kind, f"{group}.")))
    parts.append("\n".join(models()))
    for name in sorted(RELEASED):
        text, rows = of_yaml(CONF / "method" / f"{name}.yaml", "method.")
        parts.append(section(f"method={name}", text, rows))
    for name in choices("hydra/launcher", None):
        text, rows = of_yaml(CONF / "hydra" / "launcher" / f"{name}.yaml", "hydra.launcher.")
        parts.append(section(f"hydra/launcher={name}", text, rows))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def main() -> None:
    """Writes the page; with --check compares it instead, and exits 1 if it is out of date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    text = page()
    if not parser.parse_args().check:
        write_atomic(PAGE, text)
    elif text != PAGE.read_text(encoding="utf-8"):
        sys.exit(f"{PAGE} is not what the settings say: python scripts/settings_page.py")


if __name__ == "__main__":
    main()
