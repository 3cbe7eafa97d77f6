"""The picture of a comparison: every row under every attack, and below it every row as the attack grows."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clead_jax.reporting import compare_runs as comparison
from clead_jax.reporting import labels as wording
from clead_jax.reporting import style
from clead_jax.reporting.compare_runs import Comparison, Row
from clead_jax.results.intervals import interval95

_COLORS = [color for color in style.PALETTE if color != style.model_line("baseline").color]
_MARKERS = "oD^vP*Xh<>"


@style.styled
def picture(found: Comparison) -> Figure:
    """Points with 95 % intervals, small dots for single seeds; curves where all runs have the same one."""
    curves, looks = comparison.curves(found), _looks(found.rows)
    points = 0.5 + len(found.columns) * (0.3 + 0.13 * len(found.rows))
    heights = [points, 3.2] if curves else [points]
    names = [textwrap.fill(row.name, 70) for row in found.rows]
    legend_columns = max(1, min(3, len(names), 80 // max(len(name) + 6 for name in names)))
    height = sum(heights) + 0.25 * -(-sum(name.count("\n") + 1 for name in names) // legend_columns)
    figure, axes = style.panels(height, len(heights), gridspec_kw={"height_ratios": heights})
    _points(axes[0, 0], found, looks)
    if curves:
        _curves(axes[1, 0], found, curves, looks)
    handles, _ = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=legend_columns)
    return figure


def _looks(rows: list[Row]) -> list[style.Line]:
    """The undefended model looks as it does in every report; the others take colours and markers in turn."""
    looks, number = [], 0
    for row in rows:
        if row.entries[0].stage == "baseline" and style.model_line("baseline") not in looks:
            looks.append(style.model_line("baseline"))
            continue
        color, again = _COLORS[number % len(_COLORS)], number // len(_COLORS) % 2
        line, face = ("--", "white") if again else ("-", color)
        looks.append(style.Line(color, _MARKERS[number % len(_MARKERS)], line, face))
        number += 1
    return looks


def _points(ax: Axes, found: Comparison, looks: list[style.Line]) -> None:
    offsets = np.linspace(-0.36, 0.36, len(found.rows)) if len(found.rows) > 1 else [0.0]
    for row, look, offset in zip(found.rows, looks, offsets, strict=True):
        scores = [(i, s) for i, c in enumerate(found.columns) if (s := comparison.score(row, c))]
        means = [score.mean for _, score in scores]
        at = np.array([i for i, _ in scores]) + offset
        bars = _bars(means, [score.interval95 for _, score in scores])
        drawn = look._replace(linestyle="none")._asdict() | {"markersize": 4.5, "elinewidth": 1.2}
        ax.errorbar(100 * np.array(means), at, xerr=bars, label=row.name, **drawn)
        single = [(share, i + offset) for i, s in scores if s.std is not None for share in s.shares.values()]
        if single:
            shares, heights = np.array(single).T
            ax.plot(100 * shares, heights, ".", color=style.INK, markersize=2.5, zorder=3)
    ax.set_yticks(range(len(found.columns)), [column.title for column in found.columns], color=style.INK)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(found.columns) - 0.5, -0.5)
    for edge in range(1, len(found.columns)):
        ax.axhline(edge - 0.5, color="#E4E7EB", linewidth=0.8, zorder=0)
    ax.grid(False, axis="y")
    style.percent(ax, "x", f"accuracy in %; attacks with {wording.radius(**found.results['threat_model'])}")


def _curves(ax: Axes, found: Comparison, curves: dict[str, Any], looks: list[style.Line]) -> None:
    threat, count = found.results["threat_model"], curves["num_examples"]
    unit = 255 if threat["norm"] == "linf" else 1
    eps = unit * np.array(curves["eps"])
    for (name, shares), look in zip(curves["accuracy"].items(), looks, strict=True):
        bars = _bars(shares, [interval95(share * count, count) for share in shares])
        drawn = look._asdict() | {"markersize": 4.5, "linewidth": 1.4, "elinewidth": 0.8}
        ax.errorbar(eps, 100 * np.array(shares), yerr=bars, label=name, **drawn)
    # The interesting radii are the small ones: hence the square root.
    ax.set_xscale("function", functions=(lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: x * np.abs(x)))
    ax.set_xticks(eps, [f"{value:.3g}" for value in eps])
    ax.grid(False, axis="x")
    ax.axvline(unit * threat["eps"], color=style.GREY, linewidth=1, zorder=1)
    note: dict[str, Any] = {"color": style.GREY, "fontsize": 9, "textcoords": "offset points", "xytext": (4, 3)}
    ax.annotate("ε of the table", (unit * threat["eps"], 100), **note)
    norm = wording.norm_title(threat["norm"])
    ax.set_xlabel(f"{norm} radius ε{' in units of 1/255' if unit == 255 else ''} (square-root scale)")
    attack = wording.attack_title(curves["attack"], {"attacks": {curves["attack"]: curves.get("settings", {})}})
    style.percent(ax, "y", f"accuracy under {attack}, %")


def _bars(shares: list[float], intervals: list[tuple[float, float]]) -> np.ndarray:
    """Lengths of the error bars in %, [2, n]: below and above the point."""
    low, high = np.array(intervals, float).reshape(-1, 2).T
    return 100 * np.maximum(0, [shares - low, high - shares])
