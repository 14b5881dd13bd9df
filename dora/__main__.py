"""`dora-glue COMMAND …`: every command of the suite under one name, as `python -m dora` too."""

from __future__ import annotations

import difflib
import os
import sys
from typing import NoReturn

from dora.process.command import command

COMMANDS = {
    "run": "trains one run, or with -m every combination of the values between commas",
    "tune": "searches learning rates, with equal effort for every method",
    "torchrun": "trains one run in several processes, on GPUs or on a CPU",
    "status": "shows how far a study is; --missing prints the commands that are left",
    "tables": "makes tables of finished runs: Markdown, LaTeX, CSV",
    "plots": "draws their figures: PDF, SVG, PNG, CSV",
    "report": "puts tables, figures and configurations on one page",
    "export": "writes a run's weights for PEFT or Transformers, and pushes them to the hub",
    "submit": "zips test predictions for the GLUE server",
    "collect": "packs the records of finished runs into one file",
    "bench": "times a training step beside the bare backbone, PEFT and the Trainer",
}


def usage() -> str:
    """Returns the help: every command with a line on it."""
    width = max(map(len, COMMANDS)) + 2
    return "\n".join(
        [
            "usage: dora-glue COMMAND …",
            "",
            "Each command is python -m dora.COMMAND, and takes the same words.",
            "",
            *(f"  {name:<{width}}{text}" for name, text in COMMANDS.items()),
            "",
            "dora-glue COMMAND --help   explains a command",
            "dora-glue --version        prints the version",
        ]
    )


def unknown(word: str) -> str:
    """Returns the message for a first word that is no command, with the nearest one."""
    if "=" in word:  # a setting, as of dora.run
        return f"{word} is a setting and no command: dora-glue run {word} …"
    near = difflib.get_close_matches(word, COMMANDS, 1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no command {word}: {hint}The commands are {', '.join(COMMANDS)}"


def main() -> None:
    """Becomes the command that the first word names; exits with 2 if there is none such."""
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        become(words[0], words[1:])
    command(lambda: _answer(words))


def become(name: str, words: list[str]) -> NoReturn:
    """Replaces this process by `python -m dora.NAME WORDS`.

    The command is then what it is by itself: its signals, its workers, the line that it records.
    """
    os.execv(sys.executable, [sys.executable, "-m", f"dora.{name}", *words])


def _answer(words: list[str]) -> None:
    """Prints the help, or the message on a word that is no command."""
    if words and words[0] in ("-h", "--help"):
        print(usage())
        return
    print(unknown(words[0]) if words else usage(), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
