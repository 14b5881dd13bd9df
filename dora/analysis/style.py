"""How every figure looks: colours, panels, titles, legend, and its files. All that is Matplotlib's own."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dora.errors import UserError
from dora.plain import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart; in grey print the markers do.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_KNOWN = {"lora": 0, "adalora": 1, "dora": 2, "full": 3}
PNG_DPI = 160


def style(method: str) -> dict[str, Any]:
    """Colour and marker of a method: the same in every figure, and of a new one by its name."""
    i = _KNOWN.get(method, 4 + sum(map(ord, method)) % 2)
    return {"color": COLOURS[i], "marker": _MARKERS[i]}


def panels(
    number: int,
    columns: int = 4,
    width: float = 2.1,
    height: float = 1.6,
    left: float = 0.65,
    right: float = 0.15,
    gap: float = 0.42,
    same_y: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure of `number` panels in rows of at most `columns`; all lengths in inches.

    Every panel has its place from the start: Matplotlib's own layout takes as long as the drawing.
    """
    from matplotlib.figure import Figure

    across, above, below = min(number, columns), 0.55, 0.5
    down = -(-number // across)
    pitch = (width + (0.12 if same_y else gap), height + 0.45)
    whole = (left + pitch[0] * across + right, above + pitch[1] * down - 0.45 + below)
    figure = Figure(figsize=whole, dpi=PNG_DPI)
    axes: list[Axes] = []
    for i in range(number):
        x, y = left + pitch[0] * (i % across), whole[1] - above - height - pitch[1] * (i // across)
        place = (x / whole[0], y / whole[1], width / whole[0], height / whole[1])
        panel = figure.add_axes(place, sharey=axes[0] if same_y and axes else None)
        panel.tick_params(labelsize=7, labelleft=not same_y or i % across == 0)
        panel.locator_params(nbins=5)  # labels are what drawing takes longest for
        panel.spines[["top", "right"]].set_visible(False)
        axes.append(panel)
    return figure, axes


def titles(figure: Figure, below: str, beside: str = "") -> None:
    """What the panels' axes mean, once for all."""
    figure.text(0.5, 0.06 / figure.get_figheight(), below, ha="center", va="bottom", fontsize=8)
    figure.text(
        0.06 / figure.get_figwidth(), 0.5, beside, ha="left", va="center", fontsize=8, rotation=90
    )


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, above them."""
    found: dict[str, Any] = {}
    for panel in axes:  # a panel may lack what another has
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        list(found.values()),
        list(found),
        loc="upper center",
        ncols=len(found),
        fontsize=8,
        frameon=False,
    )


def images(figure: Figure) -> dict[str, bytes]:
    """The figure as pdf and png; the same numbers give the same bytes.

    By each format's own canvas: `savefig` would draw twice for each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # a name between dollar signs is no formula
        text.set_parse_math(False)
        if not (said := text.get_text()).isprintable():
            text.set_text(printable(said, kept="\n"))
    png, pdf = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_png(
        png, metadata={"Software": None}, pil_kwargs={"compress_level": 2}
    )
    FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None})
    return {"png": png.getvalue(), "pdf": pdf.getvalue()}


def require_matplotlib() -> None:
    """Raises UserError where it is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise UserError("figures need matplotlib: pip install matplotlib") from e
