"""The picture of a comparison: every row under every attack, and below it every row as the attack grows."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clead_jax.reporting import charts, labels, style
from clead_jax.reporting.charts import Series
from clead_jax.reporting.compare_runs import Comparison, score


@style.styled
def picture(found: Comparison) -> Figure:
    """Points with 95 % intervals, small dots for single seeds; curves where all runs have the same one."""
    heights = [0.5 + len(found.columns) * (0.3 + 0.13 * len(found.rows)), *([3.2] if found.curves else [])]
    names = [textwrap.fill(row.name, 70) for row in found.rows]
    legend_columns = max(1, min(3, len(names), 80 // max(len(name) + 6 for name in names)))
    height = sum(heights) + 0.25 * -(-sum(name.count("\n") + 1 for name in names) // legend_columns)
    figure, axes = style.panels(height, len(heights), gridspec_kw={"height_ratios": heights})
    lines = style.lines("baseline" if row.models[0].stage == "baseline" else "defended" for row in found.rows)
    looks = [line._asdict() | {"markersize": 4.5} for line in lines]
    _points(axes[0, 0], found, looks)
    if curves := found.curves:
        thin = [look | {"linewidth": 1.4, "elinewidth": 0.8} for look in looks]
        drawn = zip(curves["accuracy"].items(), thin, strict=True)
        series = [charts.over_radii(name, shares, curves["num_examples"], look) for (name, shares), look in drawn]
        attack = labels.attack_title(curves["attack"], {"attacks": {curves["attack"]: curves.get("settings", {})}})
        charts.draw_over_eps(axes[1, 0], series, curves["eps"], attack, found.results["threat_model"])
    handles, _ = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=legend_columns)
    return figure


def _points(ax: Axes, found: Comparison, looks: list[dict[str, Any]]) -> None:
    offsets = np.linspace(-0.36, 0.36, len(found.rows)) if len(found.rows) > 1 else [0.0]
    for row, look, offset in zip(found.rows, looks, offsets, strict=True):
        scores = [(i + offset, s) for i, a in enumerate(found.columns.values()) if (s := score(row.models, a))]
        means, intervals = [s.mean for _, s in scores], [s.interval95 for _, s in scores]
        series = Series(row.name, means, intervals, look | {"elinewidth": 1.2})
        charts.points(ax, series, np.array([at for at, _ in scores]))
        for at, own in scores:
            single = own.single if len(own.single) > 1 else []
            ax.plot(100 * np.array(single), [at] * len(single), ".", color=style.INK, markersize=2.5, zorder=3)
    charts.attack_rows(ax, list(found.columns), found.results["threat_model"])
    for edge in range(1, len(found.columns)):
        ax.axhline(edge - 0.5, color=style.PALE, linewidth=0.8, zorder=0)
