"""One look for all pictures: the Okabe-Ito colours, which colour-blind readers tell apart, doubled by marker and line.

Figures are built without pyplot: no global state, no display, and a report can be made inside any program.
"""

import itertools
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 6.0  # inches, with 10 point type: still legible when a phone shrinks the picture to its screen
DPI = 200
INK = "#1D2126"
GREY = "#5B6470"
PALE = "#E4E7EB"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK, "#9A8700", "#7A4FBF", "#8C8C8C")


class Line(NamedTuple):
    """How one series is drawn, in every picture it appears in."""

    color: str
    marker: str
    linestyle: str
    markerfacecolor: str


CLEAN = Line("#009E73", "o", "-", "#009E73")
ROBUST = Line("#A6437D", "D", "--", "white")
_MODELS = {"baseline": Line("#D55E00", "s", "--", "white"), "defended": Line("#0072B2", "o", "-", "#0072B2")}

_SETTINGS: dict[Any, Any] = (
    {"font.size": 10, "legend.frameon": False, "lines.linewidth": 1.8, "lines.markersize": 5.5, "errorbar.capsize": 2.5}
    | {"axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlecolor": INK}
    | {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.grid": True}
    | {"axes.labelcolor": INK, "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY, "grid.color": PALE}
    | {"text.parse_math": False, "text.usetex": False}  # names are no formulas
)
styled = matplotlib.rc_context(_SETTINGS)
"""Decorator of every function that draws a figure: the settings hold inside it and nowhere else."""


def lines(models: Iterable[str]) -> list[Line]:
    """The look of each model: "baseline" and "defended" have the same in every picture, the others one each in turn.

    Where a name comes more than once the first has its look.
    """
    own, colors = dict(_MODELS), PALETTE[2:]
    strokes = itertools.cycle([*((c, "-", c) for c in colors), *((c, "--", "white") for c in colors)])
    others = (Line(c, m, line, face) for m, (c, line, face) in zip(itertools.cycle("D^vP*Xh<>"), strokes, strict=False))
    return [own.pop(name) if name in own else next(others) for name in models]


def panels(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of the report's width, and its axes as an array [rows, columns]."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


@styled
def save(figure: Figure, path: Path) -> None:
    """Writes a PNG; a sign that the font lacks becomes a box. Raises OSError if it cannot write."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from|constrained_layout not applied")  # for odd names
        figure.savefig(path)


def percent(ax: Axes, side: str, label: str) -> None:
    """Makes `side` ("x" or "y") an accuracy axis: 0 to 100 %, with room so that points at the ends are whole."""
    ax.set(**{f"{side}lim": (-3, 103), f"{side}ticks": range(0, 101, 20), f"{side}label": label})


def hide_axes(ax: Axes) -> None:
    """Removes ticks, frame and grid, as around an image."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
