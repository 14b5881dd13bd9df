"""The choice of a method by its YAML: conf/method/NAME.yaml names the class and holds all defaults.

A YAML in another folder (--config-dir) does as well as one of this package. The class, and PyTorch
with it, is imported only when a configuration is turned into typed settings.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dora.configuration.method_class import method_class
from dora.errors import UserError
from dora.package import CONF

if TYPE_CHECKING:
    from dora.methods.base import Method

CLASS = "_target_"  # the YAML's key that names the class, as Hydra calls it
# The YAML's key for a setting that `python -m dora.tune` tries beside the rate, with the values
# besides its default: {dem: [0.3, 0.5]}.
TUNE = "_tune_"
_TYPES = (
    "a setting is a bool, an int, a float, a str, one of these or None, or a list of them; "
    "problems() says which values it may have"
)
ONE_FILE = ("task", "method", "model", "data")  # the groups of which a run has one file each
_NO_SETTINGS = ("name", CLASS, TUNE)  # the YAML's keys that are no settings of the method


@dataclass(frozen=True)
class MethodChoice:
    """The method of one run: its name, its class and its typed settings.

    `unknown`: keys that the command line added and the settings do not have. `tried`: the setting
    that a search tries beside the learning rate, with its values besides the default; or None.
    """

    name: str
    kind: type[Method]
    settings: Any
    unknown: tuple[str, ...] = ()
    tried: tuple[str, tuple[Any, ...]] | None = None

    @property
    def has_budget(self) -> bool:
        """True if `budget=` binds the method."""
        return self.kind.budget != "none"


def method_names() -> list[str]:
    """Returns the names that `method=` takes, sorted: this package's and those of --config-dir.

    The latter are known only while Hydra composes or runs something in this process.
    """
    return sorted(
        {file.stem for folder in _folders() for file in (folder / "method").glob("*.yaml")}
    )


def packaged_names() -> list[str]:
    """Returns the names of this package's methods, sorted."""
    return sorted(file.stem for file in (CONF / "method").glob("*.yaml"))


def _folders() -> list[Path]:
    """Returns the folders that Hydra composes from, or this package's alone without Hydra."""
    if HydraConfig.initialized():  # within a run, in a launcher's worker too
        sources = HydraConfig.get().runtime.config_sources
        return [CONF, *(Path(s.path) for s in sources if s.schema == "file")]
    # While composing, before any run: the loader knows the sources, HydraConfig does not yet.
    hydra = GlobalHydra.instance()
    if hydra.is_initialized():
        found = hydra.config_loader().get_sources()
        return [CONF, *(Path(s.path) for s in found if s.scheme() == "file")]
    return [CONF]


def choose(held: DictConfig) -> MethodChoice:
    """Turns the composed `method` group into a class and typed settings.

    Raises HydraException if the YAML does not fit the class, and OmegaConf's own error, which names
    the key, for a value of a wrong type.
    """
    name = held.get("name")
    if not isinstance(name, str) or not name.isidentifier():
        raise HydraException(
            f"method.name={name}: conf/method/NAME.yaml must say name: NAME, "
            "of letters, digits and _"
        )
    kind = _class_of(name, held.get(CLASS))
    fields = [field.name for field in dataclasses.fields(kind.settings_type)]
    given = [str(key) for key in held if key not in _NO_SETTINGS]
    # Every default stands in the YAML alone, so a field without one there has no value at all.
    unknown = tuple(key for key in given if key not in fields)
    if missing := [field for field in fields if field not in given]:
        none = f", and none named {' or '.join(unknown)}" if unknown else ""  # often a misspelling
        raise HydraException(
            f"{name}.yaml has no default for {', '.join(missing)}, "
            f"which {kind.__name__} has as settings{none}"
        )
    try:
        typed = OmegaConf.structured(kind.settings_type)
    except OmegaConfBaseException as e:
        why = str(e).splitlines()[0]
        raise HydraException(f"{kind.settings_type.__name__}: {why}; {_TYPES}") from None
    # The parent makes errors name the whole key, `method.alpha`.
    whole = OmegaConf.create({"method": typed})
    # One by one, so that a value of a wrong type raises an error with its key.
    for key in fields:
        OmegaConf.update(whole, f"method.{key}", held[key])
    settings = OmegaConf.to_object(whole.method)
    for key in fields:
        try:
            json.dumps(getattr(settings, key))
        except TypeError as e:
            raise HydraException(f"{kind.settings_type.__name__}.{key}: {e}; {_TYPES}") from None
    tried = _tried(name, held.get(TUNE), fields, whole)
    return MethodChoice(name, kind, settings, unknown, tried)


def check_choices(held: Any, choices: Mapping[str, Any]) -> None:
    """Raises HydraException for a group of several files, and for a name that means another thing.

    `held`: the composed `method` group, or the value that a file has put in its place. `choices`:
    the chosen file of each group, as Hydra notes them. A copy of lora.yaml that keeps `name: lora`
    would train one method, and be recorded and compared as another.
    """
    # Hydra lays the files of `task=[mrpc,rte]` over each other, and notes no choice then.
    if several := [group for group in ONE_FILE if group not in choices]:
        raise HydraException(f"a run has one {several[0]}")
    if not isinstance(held, DictConfig):
        raise HydraException(as_a_choice("method", held))
    # Hydra would take the suite's file, and a user's changes to a copy of it would do nothing.
    own = [folder for folder in _folders() if folder.resolve() != CONF.resolve()]
    for folder, (group, name) in product(own, choices.items()):
        file = f"{group}/{name}.yaml"
        if (folder / file).is_file() and (CONF / file).is_file():
            raise HydraException(
                f"{group}={name} is the suite's own, and {folder / file} has its name: give yours "
                "another one"
            )
    file, name = str(choices.get("method")), held.get("name")
    if (stem := file.rpartition("/")[2]) != name:
        raise HydraException(
            f"{file}.yaml says name: {name}; it must say name: {stem}, as method={file} selects it: "
            "paths and tables show the name"
        )


def as_a_choice(group: str, value: Any) -> str:
    """Says how a file makes the choice that it holds as a plain key, such as `method: lora`."""
    name = value if str(value).isidentifier() else "NAME"
    return (
        f"{group}: {value} chooses nothing in the body of a file: write the line "
        f"`- override /{group}: {name}` under defaults:, or the values of a sweep under "
        "hydra.sweeper.params"
    )


def _tried(
    name: str, entry: Any, fields: Sequence[str], whole: DictConfig
) -> tuple[str, tuple[Any, ...]] | None:
    """Returns the setting that a YAML names for a search, and its values of the setting's type.

    Raises HydraException if the entry is no such thing, and OmegaConf's own error for a value of a
    wrong type.
    """
    if entry is None:
        return None
    wanted = f"{name}.yaml: {TUNE} names one setting and some values, as {TUNE}: {{alpha: [8, 32]}}"
    if not isinstance(entry, DictConfig) or len(entry) != 1:
        raise HydraException(wanted)
    ((key, values),) = ((str(key), values) for key, values in entry.items())
    if key not in fields or not isinstance(values, ListConfig) or not values:
        raise HydraException(wanted)
    typed = copy.deepcopy(whole)  # its fields turn 8 into 8.0 where the setting is a float
    found = []
    for value in values:
        OmegaConf.update(typed, f"method.{key}", value)
        found.append(typed.method[key])
    return key, tuple(v for v in dict.fromkeys(found) if v != whole.method[key])


def packaged(name: str, **changes: Any) -> MethodChoice:
    """Returns a method of this package with its defaults and `changes`."""
    held = OmegaConf.load(CONF / "method" / f"{name}.yaml")
    assert isinstance(held, DictConfig)
    return choose(OmegaConf.merge(held, changes))  # type: ignore[arg-type]


def changed(choice: MethodChoice, **changes: Any) -> MethodChoice:
    """Returns the choice with other values of some settings, all of which it has.

    Raises OmegaConf's error, a ValueError, for a value of a wrong type.
    """
    held = OmegaConf.merge(OmegaConf.structured(choice.settings), changes)
    return dataclasses.replace(choice, settings=OmegaConf.to_object(held))


def spelled(choice: MethodChoice) -> Mapping[str, Any]:
    """Returns a method's name and settings as run.json records them."""
    return {"name": choice.name, **dataclasses.asdict(choice.settings)}


def _class_of(name: str, place: Any) -> type[Method]:
    """Returns the class that a YAML names. Raises HydraException where it names none."""
    if not isinstance(place, str) or "." not in place:
        raise HydraException(
            f"{name}.yaml must name a class, such as {CLASS}: my_package.my_method.MyMethod"
        )
    try:
        return method_class(name, place)
    except UserError as e:
        raise HydraException("; ".join(e.problems)) from None
