"""Contrast of colours, compared with values that are published for WCAG."""

from __future__ import annotations

import pytest

from dora.analysis.figures.style import COLOURS
from dora.analysis.page.contrast import DARK, LIGHT, contrast, luminance, on_dark, on_light


def test_luminance_and_contrast_are_those_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    # Pure red, green and blue have the weights of the definition.
    pure = [luminance(c) for c in ("#ff0000", "#00ff00", "#0000ff")]
    assert pure == pytest.approx([0.2126, 0.7152, 0.0722])
    # The lightest grey that passes 4.5 on white, as WCAG's guides have it.
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)
    assert contrast("#777777", "#ffffff") < 4.5


def test_a_colour_is_changed_only_where_it_would_not_be_seen() -> None:
    assert on_light("#0072B2").upper() == "#0072B2"
    assert contrast("#DDBBBB", LIGHT) < 3 <= contrast(on_light("#DDBBBB"), LIGHT)
    assert contrast("#001177", DARK) < 3 < 5 <= contrast(on_dark("#001177"), DARK)


@pytest.mark.parametrize("change", [on_light, on_dark])
def test_no_two_methods_get_one_colour(change) -> None:
    assert len(set(map(change, COLOURS))) == len(COLOURS)
