"""One look for all pictures: the Okabe-Ito colours, which colour-blind readers tell apart, doubled by marker and line.

Figures are built without pyplot: no global state, no display, and a report can be made inside any program.
"""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 6.0  # inches, with 10 point type: still legible when a phone shrinks the picture to its screen
DPI = 200
INK = "#1D2126"
GREY = "#5B6470"
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
_OTHER_COLORS, _OTHER_MARKERS = PALETTE[2:], "D^vP*Xh<>"

styled = matplotlib.rc_context(
    {
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlecolor": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GREY,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": "#E4E7EB",
        "xtick.color": GREY,
        "ytick.color": GREY,
        "lines.linewidth": 1.8,
        "lines.markersize": 5.5,
        "legend.frameon": False,
        "errorbar.capsize": 2.5,
    }
)
"""Decorator of every function that draws a figure: the settings hold inside it and nowhere else."""


def lines(models: Iterable[str]) -> list[Line]:
    """The look of each model: "baseline" and "defended" have the same in every picture, the others one each in turn.

    Where a name comes more than once the first has its look.
    """
    own, others = dict(_MODELS), itertools.count()
    return [own.pop(name) if name in own else _other(next(others)) for name in models]


def _other(number: int) -> Line:
    color, again = _OTHER_COLORS[number % len(_OTHER_COLORS)], number // len(_OTHER_COLORS) % 2
    line, face = ("--", "white") if again else ("-", color)
    return Line(color, _OTHER_MARKERS[number % len(_OTHER_MARKERS)], line, face)


def panels(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of the report's width, and its axes as an array [rows, columns]."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def percent(ax: Axes, side: str, label: str) -> None:
    """Makes `side` ("x" or "y") an accuracy axis: 0 to 100 %, with room so that points at the ends are whole."""
    ax.set(**{f"{side}lim": (-3, 103), f"{side}ticks": range(0, 101, 20), f"{side}label": label})


def hide_axes(ax: Axes) -> None:
    """Removes ticks, frame and grid, as around an image."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
