"""Lists the choices: files of conf/ and of --config-dir, every key, and the text of --help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template

from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from dora.package import CONF


@contextmanager
def composing(config_dir: str | None) -> Iterator[None]:
    """Lets Hydra compose in this process, as for a command line with this --config-dir."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        if config_dir is not None:
            # `initialize_config_dir` takes one folder. So Hydra is set up a second time, with the
            # user's folder behind the suite's own, as its own --config-dir has it.
            path = create_config_search_path(str(CONF))
            path.prepend("command-line", f"file://{config_dir}", SearchPathQuery(provider="schema"))
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2("dora", path)
        yield


def usage(overrides: Sequence[str], config_dir: str | None = None) -> str:
    """Returns the text of --help: hydra.help.template, filled in.

    Hydra's own --help composes the list of choices too, which takes a second longer.
    """
    with composing(config_dir):
        config = compose("config", overrides=list(overrides), return_hydra_config=True)
    shown = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    groups = "".join(f"{g}: {', '.join(choices(g, config_dir))}\n" for g in group_names(config_dir))
    return Template(config.hydra.help.template).substitute(
        APP_CONFIG_GROUPS=groups, CONFIG=OmegaConf.to_yaml(shown)
    )


def group_names(config_dir: str | None) -> list[str]:
    """Returns the keys that choose a file, sorted: task, method and so on."""
    found = {d.name for folder in _folders(config_dir) for d in folder.iterdir() if d.is_dir()}
    # Settings of Hydra's own are no choice of a run's; hidden folders belong to editors and git.
    return sorted(name for name in found if name != "hydra" and not name.startswith((".", "_")))


def choices(group: str, config_dir: str | None) -> list[str]:
    """Returns the names that `group=` takes, sorted; those in folders as `folder/name`."""
    found = {
        file.relative_to(folder / group).with_suffix("").as_posix()
        for folder in _folders(config_dir)
        for file in (folder / group).rglob("*.yaml")
        if not file.name.startswith("_")  # shared parts of other files, such as _common.yaml
    }
    return sorted(found)


def _folders(config_dir: str | None) -> list[Path]:
    return [CONF] if config_dir is None else [CONF, Path(config_dir)]


def keys(node: DictConfig, prefix: str = "") -> list[str]:
    """Returns the dotted key of every value in a configuration, depth first."""
    found = []
    for name in node:
        if str(name).startswith("_"):  # such as `_target_`: no setting
            continue
        # `_get_node` neither resolves an interpolation nor raises for a value that is missing.
        inner, key = node._get_node(name), f"{prefix}{name!s}"
        found += keys(inner, f"{key}.") if isinstance(inner, DictConfig) else [key]
    return found
