"""docs/settings.md is what conf/ and the dataclasses say, and explains every key there is."""

from __future__ import annotations

import re

from omegaconf import OmegaConf

from dora.cli.choices import keys
from runs import configure, load_script

script = load_script("settings_page")


def test_the_page_is_what_the_script_makes() -> None:
    assert script.PAGE.read_text() == script.page(), "python scripts/settings_page.py"


def test_every_key_of_a_configuration_is_on_the_page_with_a_meaning() -> None:
    rows = re.findall(
        r"^\| `([\w.]+)` \| (.*?) \| (.*?) \|$", script.PAGE.read_text(), re.MULTILINE
    )
    explained = {key for key, _, meaning in rows if meaning}
    # Composed as for a run, not read from the dataclasses as the script does.
    config = configure("method=lora")
    flat = OmegaConf.create(config.flat())
    there = {key for key in keys(flat) if ".lr." not in key}
    assert {"lr", "method.alpha", "fed.clients", "model.path"} < there
    # `task=` and the like are choices of files, and have their page.
    assert there - explained - {"task.name", "method.name"} == set()


def test_a_key_without_a_meaning_is_refused() -> None:
    class Bare:
        """Nothing is explained."""

    assert script.meanings(Bare) == {}
    assert script.meanings(script.FedConfig).keys() == set(script.FedConfig.__dataclass_fields__)
