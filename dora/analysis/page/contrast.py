"""Colours that are seen on the page's backgrounds: as given, or as much lighter or darker as needed.

Contrast is WCAG 2's: (L + 0.05) / (l + 0.05) of the relative luminances, 21 of black and white.
"""

from __future__ import annotations

LIGHT, DARK = "#ffffff", "#15191e"  # the backgrounds of assets/report/report.css
# WCAG asks for 3; on the dark page thin lines of contrast 3 are seen and not read.
LEAST_ON_LIGHT, LEAST_ON_DARK = 3.0, 5.0
_STEPS = 50  # shades that are tried between the colour and white or black


def luminance(colour: str) -> float:
    """Returns the relative luminance of `#rrggbb`: 0 for black to 1 for white."""
    parts = [part / 255 for part in _rgb(colour)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Returns the contrast of two colours: 1 for equal ones to 21 for black and white."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def on_light(colour: str) -> str:
    """Returns the colour, darker where it would not be seen on a light page."""
    return _until_seen(colour, LIGHT, LEAST_ON_LIGHT, "#000000")


def on_dark(colour: str) -> str:
    """Returns the colour, lighter where it would not be seen on a dark page."""
    return _until_seen(colour, DARK, LEAST_ON_DARK, "#ffffff")


def _until_seen(colour: str, background: str, least: float, towards: str) -> str:
    """Returns the first mixture of the colour and `towards` whose contrast is `least`."""
    mixed = (_mixed(colour, towards, i / _STEPS) for i in range(_STEPS + 1))
    return next(one for one in mixed if contrast(one, background) >= least)


def _mixed(one: str, other: str, share: float) -> str:
    """Returns a colour between two; `share` of the other: 0 to 1."""
    parts = zip(_rgb(one), _rgb(other), strict=True)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in parts)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
