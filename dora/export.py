"""`python -m dora.export RUN_DIR`: a finished run's best weights for others, with a model card."""

from __future__ import annotations

from dora.process.signals import outside

if __name__ == "__main__":
    # Before the other imports, which take a second or more: Ctrl-C then ends in one line as well.
    outside.watch()

import argparse
import shlex
import sys
from pathlib import Path

from dora.errors import UserError
from dora.package import __version__
from dora.process.command import command, path
from dora.sharing import pushing
from dora.sharing.exporting import export
from dora.sharing.form import Form
from dora.sharing.front_matter import is_license


def _parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m dora.export",
        description="A finished run's best evaluation as a PEFT adapter beside its base model, or as "
        "a whole model, with a model card. One line loads it, with labels by name: "
        "transformers.pipeline('text-classification', model=FOLDER, truncation=True), or PEFT's "
        "AutoPeftModelForSequenceClassification.from_pretrained(FOLDER).",
        epilog="exit code: 0 written (and pushed), 1 the disk failed, or the hub after all was "
        "written, 2 it cannot be exported or pushed as asked.",
    )
    add = parser.add_argument
    add("run", type=path, metavar="RUN_DIR", help="a run's directory, the one that holds run.json")
    add("--to", type=path, metavar="FOLDER", help="a new folder (default: RUN_DIR/export)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--merge",
        action="store_true",
        help="a whole model for plain Transformers, the adapter added to its weights; "
        "a method that trains the backbone's own weights exports this anyway",
    )
    form.add_argument(
        "--adapter-only",
        action="store_true",
        help="the adapter without its base model: small, but to load it takes the base model, the "
        "number of classes and their names, which the card shows",
    )
    add(
        "--base",
        type=path,
        metavar="FOLDER",
        help="the base model's folder, where it is not found or has moved",
    )
    add(
        "--license",
        metavar="ID",
        help="the card's, by the hub's name (default: the base model's, or unknown)",
    )
    add(
        "--push",
        metavar="ORG/NAME",
        help="then makes this repository on the Hugging Face Hub and uploads the folder to it",
    )
    add("--private", action="store_true", help="with --push: nobody else sees the repository")
    return parser


def main() -> None:
    """Exports one run, and pushes it if asked.

    Exits 0 if written, 1 if the disk failed or the push did, 2 if it cannot be done as asked.
    """
    given = _parser().parse_args()
    # Inside the run's directory, where no tool looks for a run: exports are no records.
    to = given.to or given.run / "export"
    form = Form(
        merge=given.merge,
        alone=given.adapter_only,
        base=given.base,
        repository=given.push,
        license=given.license,
    )
    try:
        _check(given)
        export(given.run, to, form)
    except UserError as e:
        raise UserError(e.under("nothing exported:")) from e
    except OSError as e:
        # An OSError of a file already open has no name; a text as exit code means 1.
        sys.exit(f"nothing exported: {e.filename or to}: {e.strerror}")
    print(f"written: {to}; its README.md says what it is and how to load it")
    if given.push is not None:
        _push(given, to)


def _check(given: argparse.Namespace) -> None:
    """Raises UserError for options that cannot be right, and where a push could not succeed."""
    problems = []
    if given.license is not None and not is_license(given.license):
        problems.append(f"--license {given.license} is no licence's name on the hub, as apache-2.0")
    if given.private and given.push is None:
        problems.append("--private goes with --push ORG/NAME")
    if given.push is not None and (problem := pushing.name_problem(given.push)):
        problems.append(problem)
    if problems:
        raise UserError(*problems)
    if given.push is not None:
        pushing.check(given.push)


def _push(given: argparse.Namespace, to: Path) -> None:
    """Pushes the folder; a failure says how to upload what is written."""
    try:
        address = pushing.push(
            to, given.push, given.private, f"Run exported by dora-glue {__version__}"
        )
    except UserError as e:
        again = f"hf upload {given.push} {shlex.quote(str(to))}{' --private' * given.private}"
        sys.exit(f"not pushed: {e}\nonce that is mended: {again}")
    print(f"pushed: {address}")


if __name__ == "__main__":
    command(main)
