"""The look of every figure: colours, panels, titles, legend, and its files.

Only this module calls Matplotlib for anything but drawing in a panel.
"""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dora.errors import UserError
from dora.methods.released import RELEASED
from dora.plain import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FILLED: dict[str, Any] = {}
_HOLLOW = {"markerfacecolor": "white", "markeredgewidth": 0.6}  # a wider rim would fill triangles
# Okabe and Ito's six colours, which the colour-blind tell apart, and thirteen more that differ from
# them and from each other as much, to normal eyes and to three kinds of colour-blind ones (the test
# measures it). Each has a contrast of 2.2 and more to white. In grey print the markers differ.
# At 3 points stars, crosses and shapes of more corners are all round.
#
# The n-th colour and marker are those of the n-th released method, whichever others are in a figure.
# Only append to this list. No other method needs an entry here.
_LOOKS = (
    ("#0072B2", "o", _FILLED),
    ("#D55E00", "s", _FILLED),
    ("#009E73", "^", _FILLED),
    ("#CC79A7", "D", _FILLED),
    ("#E69F00", "v", _FILLED),
    ("#56B4E9", "P", _FILLED),
    ("#331122", "<", _FILLED),
    ("#8800FF", ">", _FILLED),
    ("#001177", "d", _FILLED),
    ("#772211", "o", _HOLLOW),
    ("#88BB55", "s", _HOLLOW),
    ("#773366", "^", _HOLLOW),
    ("#BB55FF", "D", _HOLLOW),
    ("#EE0055", "v", _HOLLOW),
    ("#666644", "<", _HOLLOW),
    ("#5544BB", ">", _HOLLOW),
    ("#BB1100", "P", _HOLLOW),
    ("#220044", "d", _HOLLOW),
    ("#480800", "X", _HOLLOW),
)
_KNOWN = list(RELEASED)[: len(_LOOKS)]
COLOURS = [colour for colour, _, _ in _LOOKS]
MARKERS = [{"marker": shape, **fill} for _, shape, fill in _LOOKS]
# (colour, marker) for all other methods: every colour with its own marker, then with each other.
_OTHERS = [
    (i, (i + shift) % len(COLOURS)) for shift in range(len(COLOURS)) for i in range(len(COLOURS))
]
PNG_DPI = 160
# Widths of print in inches, those of the ACL's pages: 7.7 cm, one column of two, and 16 cm, both.
WIDTHS = {"column": 3.03, "page": 6.3}
_NARROWEST = 0.94  # inches of a panel whose ticks can still be read
_LETTER = 0.06  # inches, the mean width of letters of 8 points
_LINE = 0.13  # inches, the height of a line of them
_printed: ContextVar[float | None] = ContextVar("printed", default=None)


@contextmanager
def printed(width: str | None) -> Iterator[None]:
    """Has every figure made inside be as wide as one of WIDTHS; None: as wide as its panels."""
    before = _printed.set(None if width is None else WIDTHS[width])
    try:
        yield
    finally:
        _printed.reset(before)


def in_print() -> bool:
    """Tells whether figures are made for a width of print."""
    return _printed.get() is not None


def styles(methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns colour and marker of each method of a table.

    No two are alike among the known methods and 200 others. A method that is not known goes by its
    name and keeps its look from table to table unless another one there has its colour.
    """
    found = {method: (_KNOWN.index(method),) * 2 for method in methods if method in _KNOWN}
    # The known methods have every colour; others get those of known methods that are absent.
    used = Counter(colour for colour, _ in found.values())
    free = [pair for pair in _OTHERS if pair not in found.values()]
    # By name, so that the order of the rows does not matter.
    for method in sorted(set(methods) - set(_KNOWN)):
        # The characters' sum, not hash(), which differs from process to process.
        start = sum(map(ord, method)) % len(_OTHERS)
        free = free or list(_OTHERS)
        least = min(used[colour] for colour, _ in free)
        rarest = [pair for pair in free if used[pair[0]] == least]
        # A colour with its own marker first, so that a few methods differ in both.
        pair = min(rarest, key=lambda p: (p[0] != p[1], (_OTHERS.index(p) - start) % len(_OTHERS)))
        free.remove(pair)
        used[pair[0]] += 1
        found[method] = pair
    return {
        method: {"color": COLOURS[colour], **MARKERS[marker]}
        for method, (colour, marker) in found.items()
    }


def panels(
    heads: Sequence[str],
    columns: int = 4,
    width: float = 2.1,
    height: float | None = None,
    left: float = 0.55,
    right: float = 0.15,
    gap: float = 0.36,
    narrowest: float = _NARROWEST,
    same_y: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Returns a figure of a panel under each of `heads`, in rows of at most `columns`.

    All lengths are in inches. For a width of print, panels are as wide as that leaves them, fewer
    in a row if they were else narrower than `narrowest`; letters keep their size, and a head that
    is wider than its panel has several lines. Without a `height` a panel is no higher than wide.
    """
    # Late: importing Matplotlib takes half a second. Not pyplot, which keeps figures alive.
    from matplotlib.figure import Figure

    # Every panel gets its place here: Matplotlib's own layout takes as long as the drawing.
    across, below = min(len(heads), columns), 0.5
    between = 0.12 if same_y else gap
    if (whole_width := _printed.get()) is not None:
        room = whole_width - left - right
        across = max(1, min(across, int(room / (narrowest + between))))
        width = room / across - between
    height = min(1.6, width) if height is None else height
    heads = [_wrapped(head, width) for head in heads]
    more = _LINE * max(head.count("\n") for head in heads)
    above, between_rows = 0.35 + more, 0.45 + more
    down = -(-len(heads) // across)
    pitch = (width + between, height + between_rows)
    whole = (left + pitch[0] * across + right, above + pitch[1] * down - between_rows + below)
    figure = Figure(figsize=whole, dpi=PNG_DPI)
    axes: list[Axes] = []
    for i, head in enumerate(heads):
        x, y = left + pitch[0] * (i % across), whole[1] - above - height - pitch[1] * (i // across)
        place = (x / whole[0], y / whole[1], width / whole[0], height / whole[1])
        panel = figure.add_axes(place, sharey=axes[0] if same_y and axes else None)
        panel.tick_params(labelsize=7, labelleft=not same_y or i % across == 0)
        panel.set_title(head, fontsize=8)
        panel.locator_params(nbins=5)  # labels take most of the drawing's time
        panel.spines[["top", "right"]].set_visible(False)
        axes.append(panel)
    return figure, axes


def _wrapped(text: str, width: float) -> str:
    """Returns a text of 8 points in lines of at most `width` inches."""
    return "\n".join(textwrap.wrap(text, max(16, int(width / _LETTER))))


def titles(figure: Figure, below: str, beside: str = "") -> None:
    """Writes the meaning of the panels' axes once for all of them."""
    below = _wrapped(below, figure.get_figwidth())  # two lines fit below the ticks
    figure.text(0.5, 0.06 / figure.get_figheight(), below, ha="center", va="bottom", fontsize=8)
    figure.text(
        0.06 / figure.get_figwidth(), 0.5, beside, ha="left", va="center", fontsize=8, rotation=90
    )


def legend(
    figure: Figure, axes: Sequence[Axes], title: Callable[[str], str] = lambda label: label
) -> None:
    """Draws one legend for all panels, above them; `title`: what a label is called there.

    The figure grows upwards by the legend's height. Everything that is to keep its place above the
    lower edge must stand there before.
    """
    found: dict[str, Any] = {}
    # Over all panels, because one may lack a method that another has.
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if not found:
        return
    names = [title(label) for label in found]
    columns = _columns(names, figure.get_figwidth())
    _grow(figure, axes, 0.03 + 0.17 * -(-len(names) // columns))
    figure.legend(
        list(found.values()),
        names,
        loc="upper center",
        ncols=columns,
        fontsize=8,
        columnspacing=1.2,
        frameon=False,
    )


def _columns(names: Sequence[str], width: float) -> int:
    """Returns the columns of a legend that has the fewest rows and is at most `width` inches wide.

    Each is as wide as its longest name with handle and gaps; the first ones have a name more.
    """
    for columns in (-(-len(names) // rows) for rows in range(1, len(names))):
        least, more = divmod(len(names), columns)
        ends = [(i + 1) * least + min(i + 1, more) for i in range(columns)]
        longest = [max(map(len, names[a:b])) for a, b in pairwise([0, *ends])]
        if sum(0.45 + 0.062 * letters for letters in longest) <= width:
            return columns
    return 1


def _grow(figure: Figure, axes: Sequence[Axes], inches: float) -> None:
    """Makes a figure higher at its upper edge; panels and texts keep their places and sizes."""
    before = figure.get_figheight()
    share = before / (before + inches)
    for panel in axes:
        x, y, width, height = panel.get_position().bounds
        panel.set_position((x, y * share, width, height * share))
    for text in figure.texts:
        text.set_y(text.get_position()[1] * share)
    figure.set_figheight(before + inches)


def images(figure: Figure, made_by: str | None = None) -> dict[str, bytes]:
    """Returns the figure's files by their endings; equal numbers give equal bytes.

    Letters are TrueType in the PDF, which publishers ask for, and text in the SVG, which names
    `made_by` as its source.
    """
    # By each format's own canvas: `savefig` would draw twice for each.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.text import Text

    # Names come from records: between dollar signs they are no formula, and they are printable.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        if not (said := text.get_text()).isprintable():
            text.set_text(printable(said, kept="\n"))
    png, pdf, svg = io.BytesIO(), io.BytesIO(), io.StringIO()
    # No version and no date in the files, which would differ from day to day.
    FigureCanvasAgg(figure).print_png(
        png, metadata={"Software": None}, pil_kwargs={"compress_level": 2}
    )
    # The salt names the parts of an SVG; without one they are named at random.
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "dora"}):
        FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None})
        about = {"Date": None, "Creator": None, "Source": made_by}
        FigureCanvasSVG(figure).print_svg(svg, metadata=about)
    return {"png": png.getvalue(), "pdf": pdf.getvalue(), "svg": svg.getvalue().encode()}


def require_matplotlib() -> None:
    """Raises UserError where Matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise UserError("figures need matplotlib: pip install matplotlib") from e
