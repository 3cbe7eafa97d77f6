"""Pictures of numbers: accuracy by protocol, by attack, over the radius of the attack, and during training."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clead_jax.reporting import headline, labels, style
from clead_jax.results.intervals import interval95

_APART = 0.06  # steps between the points of two models, so that their intervals can be told apart


def _bars(shares: Sequence[float], intervals: Sequence[Any]) -> np.ndarray:
    """Lengths of the error bars in %, [2, n]: below and above the point."""
    low, high = np.array(intervals, float).reshape(-1, 2).T
    return 100 * np.maximum(0, [shares - low, high - shares])


@style.styled
def by_protocol(results: dict[str, Any]) -> Figure:
    """Accuracy on clean images and under every protocol measured: a line per model with 95 % intervals.

    Where an attack was stopped by its budget the number is a bound: "≤", and an arrow in place of the lower bar.
    """
    steps = ["clean", *headline.measured(results)]
    lines = {model: headline.by_protocol(model, results) for model in results["models"]}
    figure, [[ax]] = style.panels(3.9)
    apart = min(_APART, 0.7 / max(1, len(lines)))
    for number, ((model, found), look) in enumerate(zip(lines.items(), style.lines(lines), strict=True)):
        places = np.array([steps.index(step) for step in found]) + apart * (number - (len(lines) - 1) / 2)
        shares = [each.share for each in found.values()]
        lengths = _bars(shares, [each.interval or (each.share, each.share) for each in found.values()])
        lengths[0, [each.bound for each in found.values()]] = 0
        title = labels.model_title(model, results)
        ax.errorbar(places, 100 * np.array(shares), yerr=lengths, label=title, **look._asdict())
        for place, (step, each) in zip(places, found.items(), strict=True):
            if each.bound:
                arrow = {"arrowstyle": "<-", "color": look.color, "linewidth": 1.4}
                _note(ax, "", (place, 100 * each.share), (0, -22), fontsize=10, arrowprops=arrow)
            ranked = sorted((m for m in lines if step in lines[m]), key=lambda m: -lines[m][step].share)
            if model not in (ranked[0], ranked[-1]):
                continue  # its value would be written over these: to the upper right, and the lower left
            sign, side, height = (1, "left", "bottom") if model == ranked[0] else (-1, "right", "top")
            at = steps.index(step) + sign * apart * (len(lines) - 1) / 2, 100 * each.share
            text = f"{'≤ ' * each.bound}{labels.percent(each.share)}"
            _note(ax, text, at, (5 * sign, 3 * sign), color=look.color, ha=side, va=height, fontweight="bold")
    made_on = textwrap.fill(headline.source(results), 24)
    titles = [f"{p.title}\n{p.how.format(source=made_on)}" for name, p in headline.PROTOCOLS.items() if name in steps]
    ax.set_xticks(range(len(steps)), ["Clean images", *titles], color=style.INK)
    ax.tick_params(axis="x", length=0, labelsize=9)
    ax.grid(False, axis="x")
    style.percent(ax, "y", "accuracy, worst case, %")
    ax.set(xlim=(-0.4, len(steps) - 0.5), ylim=(-10, 107))
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    """Names the models above the picture, in as many columns as it has room for; below each other they add to it."""
    handles, titles = figure.axes[0].get_legend_handles_labels()
    columns = max(1, min(len(titles), 80 // (6 + max(map(len, titles), default=0))))
    figure.set_figheight(figure.get_figheight() + 0.22 * (-(-len(titles) // columns) - 1))
    figure.legend(handles, titles, loc="outside upper center", ncols=columns)


def _note(ax: Axes, text: str, point: tuple[float, float], offset: tuple[int, int] = (4, 3), **options: Any) -> None:
    options = {"color": style.GREY, "fontsize": 9, **options}
    ax.annotate(text, point, textcoords="offset points", xytext=offset, **options)


@style.styled
def before_after(results: dict[str, Any]) -> Figure:
    """A row per attack, a point per model with its 95 % interval."""
    attacks, models = labels.attacks_of(results), results["models"]
    apart = min(0.26, 0.8 / max(1, len(models)))
    figure, [[ax]] = style.panels(1.1 + max(0.5, 0.12 * len(models)) * len(attacks))
    for number, ((name, model), look) in enumerate(zip(models.items(), style.lines(models), strict=True)):
        shares = {attack: model["accuracy"][attack] for attack in attacks if attack in model["accuracy"]}
        intervals = [model.get("interval95", {}).get(attack, (share, share)) for attack, share in shares.items()]
        rows = np.array([attacks.index(attack) for attack in shares]) + apart * (number - (len(models) - 1) / 2)
        points(ax, rows, [*shares.values()], intervals, label=labels.model_title(name, results), **look._asdict())
    attack_rows(ax, [labels.attack_title(attack, results) for attack in attacks], results["threat_model"])
    _legend(figure)
    return figure


def points(ax: Axes, rows: np.ndarray, shares: Sequence[float], intervals: Sequence[Any], **look: Any) -> None:
    """Draws accuracies [n] in [0, 1] from left to right, with their intervals [n, 2], at the heights `rows` [n]."""
    ax.errorbar(100 * np.array(shares), rows, xerr=_bars(shares, intervals), **{**look, "linestyle": "none"})


def attack_rows(ax: Axes, titles: list[str], threat: dict[str, Any]) -> None:
    """Names the rows 0, 1, ... after attacks, from the top, and the axis below after the threat model."""
    ax.set_yticks(range(len(titles)), titles, color=style.INK)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(titles) - 0.5, -0.5)
    ax.grid(False, axis="y")
    style.percent(ax, "x", f"accuracy in %; attacks with {labels.radius(**threat)}")
    ax.xaxis.label.set(x=1, ha="right")  # room for it is to the left, below long titles


@style.styled
def accuracy_over_eps(results: dict[str, Any]) -> Figure:
    """Accuracy under one attack as its radius grows, a line per model with 95 % intervals (Wilson)."""
    data, models = results["dataset"], results["models"]
    curves, attack = {"num_examples": data["num_examples"]} | results["curves"], results["curves"]["attack"]
    looks = {
        name: {"label": labels.model_title(name, results)} | look._asdict()
        for name, look in zip(models, style.lines(models), strict=True)
        if name in curves["accuracy"]
    }
    figure, [[ax]] = style.panels(3.8)
    draw_over_eps(ax, curves, looks, labels.attack_title(attack, results), results["threat_model"])
    if data.get("num_classes"):
        ax.axhline(100 / data["num_classes"], color=style.GREY, linewidth=1, linestyle=":", zorder=1)
        _note(ax, "guessing", (1, 100 / data["num_classes"]), xycoords=("axes fraction", "data"), ha="right")
    ax.legend(loc="upper right")
    return figure


def draw_over_eps(ax: Axes, curves: dict[str, Any], looks: dict[str, Any], attack: str, threat: dict[str, Any]) -> None:
    """Draws the curves that have a look (arguments of `errorbar`), on a square-root scale: the small radii are the
    interesting ones, and the largest has to be there to show whether accuracy is 0 in the end. A line marks the radius
    of the threat model. `curves`: {"eps" [n], "num_examples", "accuracy": {name: [n] in [0, 1]}}.
    """
    unit, said = (255, " in units of 1/255") if threat["norm"] == "linf" else (1, "")
    eps, count = unit * np.array(curves["eps"]), curves["num_examples"]
    for name, look in looks.items():
        shares = curves["accuracy"][name]
        lengths = _bars(shares, [interval95(share * count, count) for share in shares])
        ax.errorbar(eps, 100 * np.array(shares), yerr=lengths, **look)
    ax.set_xscale("function", functions=(lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: x * np.abs(x)))
    ax.set_xticks(eps, [f"{value:.3g}" for value in eps])
    ax.grid(False, axis="x")
    ax.axvline(unit * threat["eps"], color=style.GREY, linewidth=1, zorder=1)
    _note(ax, "ε of the table", (unit * threat["eps"], 100))
    ax.set_xlabel(f"{labels.norm_title(threat['norm'])} radius ε{said} (square-root scale)")
    style.percent(ax, "y", f"accuracy under {attack}, %")


@style.styled
def training_curves(metrics: list[dict[str, Any]]) -> Figure:
    """A row per stage: its loss, with the share of every term where it has several, and the accuracy on validation
    images it did not train on.
    """
    stages = list(dict.fromkeys(line["stage"] for line in metrics))
    figure, axes = style.panels(0.8 + 1.7 * len(stages), len(stages), 2)
    legend = {}
    for stage, (left, right) in zip(stages, axes, strict=True):
        lines = [line for line in metrics if line["stage"] == stage]
        left.plot(*_values(lines, "loss"), color=style.INK, linewidth=1.4)
        left.set(title=stage, ylabel="training loss")
        _loss_terms(left, lines)
        for key, label, look in (("val_clean", "clean", style.CLEAN), ("val_robust", "under attack", style.ROBUST)):
            steps, shares = _values(lines, key)
            if len(steps):
                legend[label] = right.plot(steps, 100 * shares, **look._asdict())[0]
        if right.lines:
            right.set_xlim(left.get_xlim())
            style.percent(right, "y", "validation acc., %")
        else:
            style.hide_axes(right)
            right.text(0.5, 0.5, "no validation in this stage", color=style.GREY, ha="center", va="center")
    figure.supxlabel("optimizer step", fontsize=10, color=style.INK)
    figure.legend(legend.values(), legend.keys(), loc="outside upper right", ncols=2)
    return figure


def _loss_terms(ax: Axes, lines: list[dict[str, Any]]) -> None:
    """What each of several terms adds to the loss, weight included, as layers whose upper edge is the loss."""
    terms = list(dict.fromkeys(key for line in lines for key in line if key.startswith("term_")))
    lines = [line for line in lines if {*terms} <= line.keys()]
    if len(terms) > 1 and lines:
        (steps, *_), layers = zip(*(_values(lines, term) for term in terms), strict=True)
        names = [term.removeprefix("term_") for term in terms]
        ax.stackplot(steps, layers, labels=names, colors=style.PALETTE[2:], alpha=0.55, linewidth=0)
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
        ax.legend(loc="upper right", fontsize=8)


def _values(lines: list[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the lines that carry `key`."""
    steps, values = np.array([(line["step"], line[key]) for line in lines if key in line], float).reshape(-1, 2).T
    return steps, values
