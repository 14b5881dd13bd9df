"""The class of a method: found by the name that a YAML gives it, and held to the rules for one.

Mistakes in a class are told before any model is loaded: a moment that is misspelt would never be
called, and the run would be of another method than its author thinks.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, get_origin, get_type_hints

from dora.checked_files import sha256_file
from dora.errors import UserError
from dora.methods.released import RELEASED

if TYPE_CHECKING:
    from dora.methods.base import Method

# `fingerprint` by class, as it was at the first call.
_AT_IMPORT: dict[type, str | None] = {}


def moments() -> frozenset[str]:
    """Returns the public names that a method may define: what a class states, and the moments."""
    from dora.methods.base import Method  # late: it imports PyTorch

    return frozenset(n for n in {*vars(Method), *Method.__annotations__} if not n.startswith("_"))


def method_class(name: str, place: str) -> type[Method]:
    """Imports and returns the class at `place`, which `name`.yaml gives as package.module.Class.

    Raises UserError if there is none, if it is no subclass of Method, or if it breaks a rule.
    """
    from dora.methods.base import Method  # late: it imports PyTorch

    module, _, attribute = place.rpartition(".")
    try:
        imported = import_module(module)
    except Exception as e:  # whatever its author's module raises, such as a missing colon
        # By name: a module that is there may import another one that is not.
        if isinstance(e, ModuleNotFoundError) and f"{module}.".startswith(f"{e.name}."):
            raise UserError(
                f"{name}.yaml names {place} as its class, which cannot be imported ({e}); "
                "a package of one's own must be installed, or lie on PYTHONPATH"
            ) from None  # the message has the reason
        raise UserError(
            f"{name}.yaml names {place} as its class, and importing it fails: {e} ({raised_at(e)})"
        ) from None
    found = getattr(imported, attribute, None)
    if found is None:
        raise UserError(
            f"{name}.yaml names {place} as its class, and {imported.__file__} has no {attribute}"
        )
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"{name}.yaml names {place}, which is not a subclass of dora.method.Method")
    if problems := list(_problems(found)):
        raise UserError(*problems)
    return found


def raised_at(error: Exception) -> str:
    """Returns the kind and place of an error in a user's own method: `NameError in mine.py, line 4`."""
    if isinstance(error, SyntaxError):
        file, line = error.filename, error.lineno
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        file, line = frame.filename, frame.lineno
    return f"{type(error).__name__} in {Path(file or '?').name}, line {line}"


def _problems(kind: type[Method]) -> Iterator[str]:
    """Yields a message for each rule that a subclass of Method breaks."""
    if not isinstance(getattr(kind, "title", None), str):
        yield f'{kind.__name__} has no title: title = "…" names it in tables and cards'
    settings = kind.settings_type
    if not dataclasses.is_dataclass(settings):
        yield f"{kind.__name__}.settings_type must be a dataclass: write @dataclass above it"
        return
    try:
        types = get_type_hints(settings)
    except Exception as e:  # whatever a type in quotes raises; from Python 3.14 on, any type
        yield f"{settings.__name__} has a setting whose type cannot be read: {e}"
        return
    fields = {field.name for field in dataclasses.fields(settings)}
    settable = [name for name, of in types.items() if ClassVar not in (of, get_origin(of))]
    if plain := [name for name in settable if name not in fields]:
        yield (
            f"{settings.__name__}: {', '.join(plain)} must be declared in a class that has @dataclass "
            "above it"
        )
    known = moments()
    for cls in _own(kind):
        for public in sorted({n for n in vars(cls) if not n.startswith("_")} - known):
            near = difflib.get_close_matches(public, known, 1)
            yield (
                f"{cls.__name__}.{public} is no moment of a method, so that nothing would call it: "
                + (f"is {near[0]} meant? " if near else "")
                + "A helper's name begins with an underscore"
            )


def is_released(cls: type) -> bool:
    """Tells whether a class is of a released method, rather than of one of the user's own.

    The file of one's own is part of a run's identity.
    """
    package, _, module = cls.__module__.rpartition(".")
    return package == "dora.methods" and module in RELEASED


def fingerprint(kind: type[Method]) -> str | None:
    """Returns the sha256 of the files that a user's own method is written in.

    The files are those of its class, of its settings, and of the user's classes that these derive
    from. They are read at the first call, soon after their import: a process goes on with the code
    that it has imported. An edited file begins other runs. Returns None for the suite's methods,
    for which the number of the arithmetic and the commit stand.
    """
    if kind not in _AT_IMPORT:
        _AT_IMPORT[kind] = _sum_of_files(kind)
    return _AT_IMPORT[kind]


def refuse_edited(kind: type[Method]) -> None:
    """Raises UserError where a file of the method was edited since this process imported it."""
    if _sum_of_files(kind) != fingerprint(kind):
        raise UserError(
            f"the file of {kind.__name__} was edited since this process imported it, and would be "
            "recorded as if that had trained: begin a new process (restart the notebook's kernel)"
        )


def _sum_of_files(kind: type[Method]) -> str | None:
    """Returns `fingerprint` as the files are now."""
    if is_released(kind):
        return None
    try:
        found = [inspect.getsourcefile(cls) for cls in (*_own(kind), *_own(kind.settings_type))]
        sums = [sha256_file(Path(file)) for file in dict.fromkeys(found) if file is not None]
    except (OSError, TypeError) as e:  # typed in a session, say
        raise UserError(
            f"{kind.__name__}, its settings and what they derive from must each be in a file, which "
            f"is a part of a run's identity ({e})"
        ) from e
    if len(sums) < 2:  # one file is its own name, as before several counted
        return sums[0] if sums else None
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def _own(kind: type) -> list[type]:
    """Returns the classes that a class consists of, less the suite's and those of libraries."""
    return [cls for cls in kind.__mro__ if not (is_released(cls) or _is_library(cls, kind))]


def _is_library(cls: type, kind: type) -> bool:
    """Tells whether a class is Python's, of this package's machinery, or installed.

    Classes that are installed beside `kind`, in its own package, are its author's.
    """
    top, own = (c.__module__.partition(".")[0] for c in (cls, kind))
    if top == "dora":
        module = cls.__module__
        return not module.startswith("dora.methods.") or module == "dora.methods.base"
    installed = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    return top in {*sys.stdlib_module_names, "torch"} or (
        top != own and any(file.startswith(f"{folder}{os.sep}") for folder in installed)
    )
