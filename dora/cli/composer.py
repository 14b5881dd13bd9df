"""Composes many similar configurations fast: those of a sweep, and those that explain a mistake."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict

from dora.configuration.config import Config, from_hydra
from dora.configuration.method_choice import check_choices


def of_a_run(cfg: DictConfig) -> DictConfig:
    """Returns a composed tree without the node `hydra`, which no run reads.

    Raises HydraException if the method's name is not that of its file, or if a group has several
    files, both of which the node tells.
    """
    check_choices(cfg.method, cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


class Composer:
    """Composes what Hydra composes from the same words, about 20 times faster on average.

    Hydra takes a tenth of a second for each composition. A grid has few choices of files (`task=…`)
    and many values (`seed=…`), and Hydra sets plain values last of all. So each combination of
    choices is composed once, and the values are set on a copy of it, which takes 3 milliseconds.
    """

    def __init__(self, loader: ConfigLoader, base: DictConfig | None = None) -> None:
        self._loader = loader
        # Hydra takes no more from the base than these two entries; composing one takes as long
        # as any composition, and fails where a file of --config-dir is broken.
        bare = {"hydra": {"job": {"config_name": "config"}, "overrides": {"hydra": []}}}
        self._base = OmegaConf.create(bare) if base is None else base
        self._parser = OverridesParser.create(config_loader=loader)
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._is_group: dict[str, bool] = {}

    def __call__(self, words: Sequence[str]) -> Config:
        """Returns the configuration. Raises the errors of Hydra and OmegaConf for a wrong word."""
        return from_hydra(self.composed(words))

    def composed(self, words: Sequence[str]) -> DictConfig:
        """Returns the configuration as a tree, without the node `hydra`. Raises as `__call__`."""
        overrides = self._parser.parse_overrides(list(words))
        values = [o for o in overrides if self._sets_a_value(o)]
        choices = tuple(str(o.input_line) for o in overrides if o not in values)
        if choices not in self._composed:
            cfg = self._loader.load_sweep_config(self._base, list(choices))
            # Every copy would take longer with the node that no run reads.
            self._composed[choices] = of_a_run(cfg)
        cfg = copy.deepcopy(self._composed[choices])
        for o in values:
            OmegaConf.update(cfg, o.key_or_group, o.value(), merge=True)
        return cfg

    def _sets_a_value(self, override: Override) -> bool:
        """Tells `lr=1e-3` from a choice, from `+key`, `~key`, and from settings of Hydra's own."""
        # +key and ~key may name a file or a value, and Hydra has rules of its own for both.
        # Settings of Hydra's own lie in the node that `composed` cuts off.
        key = override.key_or_group
        if override.type != OverrideType.CHANGE or key.startswith("hydra."):
            return False
        if key not in self._is_group:
            self._is_group[key] = bool(self._loader.get_group_options(key))
        return not self._is_group[key]
