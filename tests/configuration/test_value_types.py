"""A value of a wrong type is told by the type that its setting has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dora.configuration.value_types import type_rule


@dataclass
class Part:
    size: int = 1


@dataclass
class Whole:
    count: int = 1
    steps: int | None = None
    rate: float = 0.1
    peak: float | None = None
    fast: bool = False
    graphs: bool | None = None
    name: str = ""
    place: str | None = None
    sizes: list[int] = field(default_factory=list)
    part: Part = field(default_factory=Part)
    rates: dict[str, dict[str, float]] = field(default_factory=dict)


def error_of(key: str, value: Any) -> OmegaConfBaseException:
    with pytest.raises(OmegaConfBaseException) as caught:
        OmegaConf.update(OmegaConf.structured(Whole), key, value)
    return caught.value


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("count", "x", "must be a whole number, such as 1000"),
        ("count", 1.5, "must be a whole number, such as 1000"),
        ("count", None, "must be a whole number, such as 1000"),
        ("steps", "x", "must be a whole number, such as 1000, or null"),
        ("rate", [1], "must be a number, such as 1e-3"),
        ("peak", {"a": 1}, "must be a number, such as 1e-3, or null"),
        ("fast", "perhaps", "must be true or false"),
        ("graphs", "perhaps", "must be true or false, or null"),
        ("name", None, "must be text"),
        ("place", [1], "must be text or null"),
        ("part.size", "x", "must be a whole number, such as 1000"),
        ("rates.rte", {"lora": "x"}, "must be a number, such as 1e-3"),
        ("sizes", "x", "must be a list of whole numbers, such as [8,16]"),
    ],
)
def test_a_value_of_a_wrong_type_gets_the_rule(key: str, value: Any, rule: str) -> None:
    assert type_rule(error_of(key, value)) == rule


@pytest.mark.parametrize(
    ("key", "value"), [("part", 3), ("rates", "x"), ("rates.rte", 3), ("nothing", 3)]
)
def test_other_errors_are_left_to_their_own_words(key: str, value: Any) -> None:
    assert type_rule(error_of(key, value)) is None
    assert type_rule(ValueError("anything")) is None
