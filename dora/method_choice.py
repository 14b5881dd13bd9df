"""A method as its YAML describes it: conf/method/NAME.yaml names the class and holds every
setting's default.

A YAML in a folder of one's own (--config-dir) does as well as one of this package. The class
itself, and PyTorch with it, is imported only when a configuration is turned into typed settings.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from dora import CONF
from dora.files import sha256_file

if TYPE_CHECKING:
    from dora.methods.base import Method

CLASS = "_target_"  # the YAML's key that names the class, as Hydra calls it
_NO_SETTINGS = ("name", CLASS)


@dataclass(frozen=True)
class MethodChoice:
    """The method of one run: its name, its class and its typed settings.

    `unknown`: keys that the command line added and the settings do not have.
    """

    name: str
    kind: type[Method]
    settings: Any
    unknown: tuple[str, ...] = ()

    @property
    def has_budget(self) -> bool:
        """Whether `budget=` binds the method."""
        return self.kind.budget != "none"


def method_names() -> list[str]:
    """Lists the names that `method=` takes: this package's, and those of --config-dir while Hydra
    is at work.
    """
    return sorted(
        {file.stem for folder in _folders() for file in (folder / "method").glob("*.yaml")}
    )


def _folders() -> list[Path]:
    """Lists the folders that Hydra composes from, as far as it is at work in this process."""
    if HydraConfig.initialized():  # within a run, in a launcher's worker too
        sources = HydraConfig.get().runtime.config_sources
        return [CONF, *(Path(s.path) for s in sources if s.schema == "file")]
    hydra = GlobalHydra.instance()
    if hydra.is_initialized():
        found = hydra.config_loader().get_sources()
        return [CONF, *(Path(s.path) for s in found if s.scheme() == "file")]
    return [CONF]


def choose(held: DictConfig) -> MethodChoice:
    """Types and checks the composed `method` group. Raises HydraException or an OmegaConf error
    saying what is wrong.

    A value of a wrong type raises OmegaConf's own error, which names the key.
    """
    name = held.get("name")
    if not isinstance(name, str) or not name.isidentifier():
        raise HydraException(
            f"method.name={name}: conf/method/NAME.yaml must say name: NAME, of letters, digits and _"
        )
    kind = _class_of(name, held.get(CLASS))
    fields = [field.name for field in dataclasses.fields(kind.settings_type)]
    given = [str(key) for key in held if key not in _NO_SETTINGS]
    if missing := [field for field in fields if field not in given]:
        raise HydraException(
            f"method={name}: its YAML has no default for {', '.join(missing)}, which {kind.__name__} has as settings"
        )
    typed = OmegaConf.structured(kind.settings_type)
    # The parent makes errors name the whole key, `method.alpha`.
    whole = OmegaConf.create({"method": typed})
    for key in fields:
        OmegaConf.update(whole, f"method.{key}", held[key])
    unknown = tuple(key for key in given if key not in fields)
    return MethodChoice(name, kind, OmegaConf.to_object(whole.method), unknown)


def packaged(name: str, **changes: Any) -> MethodChoice:
    """Returns a method of this package with its defaults, but for `changes`: for tests, the bench
    and scripts.
    """
    held = OmegaConf.load(CONF / "method" / f"{name}.yaml")
    assert isinstance(held, DictConfig)
    return choose(OmegaConf.merge(held, changes))  # type: ignore[arg-type]


def spelled(choice: MethodChoice) -> Mapping[str, Any]:
    """Returns name and settings as run.json records them."""
    return {"name": choice.name, **dataclasses.asdict(choice.settings)}


def source_fingerprint(choice: MethodChoice) -> str | None:
    """Returns the sha256 of the file that a method from outside of this package is written in.

    Whoever edits it begins other runs. None for this package's methods: the number of its
    arithmetic and the commit stand for them.
    """
    if choice.kind.__module__.startswith("dora."):
        return None
    file = inspect.getsourcefile(choice.kind)
    return None if file is None else sha256_file(Path(file))


def _class_of(name: str, place: Any) -> type[Method]:
    """Imports the class that a YAML names. Raises HydraException where there is none, or it is no
    method.
    """
    from dora.methods.base import Method  # late: it imports PyTorch

    if not isinstance(place, str) or "." not in place:
        raise HydraException(
            f"method={name}: its YAML must name a class, such as {CLASS}: my_package.my_method.MyMethod"
        )
    module, _, attribute = place.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise HydraException(
            f"method={name}: {CLASS} names {place}, which cannot be imported ({e}); a package of one's own must be "
            "installed, or lie on PYTHONPATH"
        ) from None  # the message has the reason
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise HydraException(
            f"method={name}: {place} is not a subclass of dora.methods.base.Method"
        )
    return found
