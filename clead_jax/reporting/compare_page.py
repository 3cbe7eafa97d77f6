"""A comparison as a page with a picture, as text for the terminal, and as plain values for a program."""

import json
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clead_jax.reporting import charts, labels, protocol_table, render, style, tables
from clead_jax.reporting.compare_runs import Comparison, Entry, score
from clead_jax.reporting.render import Block, Bullets, Cell, Code, Heading, Picture, Table, Text
from clead_jax.results import files

NOTES = [
    "Brackets: 95 % interval for the number of images. ±: standard deviation over seeds (n − 1).",
    "Worst case: an image counts only if it is classified correctly under every attack of its run but AutoAttack.",
    "Training passes: forward and backward passes of all stages the model was trained in, added up over single images.",
]
FALL = "Worst case under each protocol, from the weakest attacker to the strongest. Bars are 95 % intervals."


def write(found: list[Comparison], output: str | Path) -> Path:
    """Writes `output`/compare.* and returns the path of the HTML page. Raises OSError if it cannot write."""
    page, title = Path(output) / "compare.html", f"Runs compared: {found[0].results['dataset']['name']}"
    with files.replaced_together(page.parent) as part:
        render.write(title, _blocks(found), part / "compare.md", part / "compare.html")
        (part / "compare.json").write_text(json.dumps(plain(found), indent=1), encoding="utf-8")
    return page


def text(found: list[Comparison]) -> str:
    """Measurements and tables for the terminal."""
    parts = []
    for each in found:
        parts.append([tables.measured(each.results), *each.notes, "", render.text(_table(each))])
        if table := protocol_table.table(each):
            parts.append([render.text(table)])
    return "\n\n".join(map("\n".join, parts))


def plain(found: list[Comparison]) -> dict[str, Any]:
    """All numbers as JSON values: {"schema": 1, "comparisons": [{dataset, threat_model, notes, rows, curves}, ...]}.

    A row has "name", "stage", "settings" (those that differ), "seeds", "runs", "accuracy" {title: {"attack",
    "settings", "mean", "std", "interval95", "single"}} in [0, 1], "forward_backward_passes", "label_use", and
    "transferred" {attack: the same, and "source"} under images made on another model.
    """
    comparisons = []
    for each in found:
        rows = []
        for row in each.rows:
            own = {key: value for key, value in row._asdict().items() if key != "models"}
            own |= {"stage": row.models[0].stage, "seeds": [entry.model[0] for entry in row.models], "accuracy": {}}
            for title, attack in each.columns.items():
                if own_score := score(row.models, attack):
                    how = {"attack": attack[0], "settings": json.loads(attack[1])}
                    own["accuracy"][title] = how | own_score._asdict()
            own["transferred"] = protocol_table.plain(row, each.results["dataset"]["num_examples"])
            rows.append(own)
        measured = {key: each.results[key] for key in ("dataset", "threat_model")}
        comparisons.append(measured | {"notes": each.notes, "rows": rows, "curves": each.curves})
    return {"schema": 1, "comparisons": comparisons}


def _blocks(found: list[Comparison]) -> list[Block]:
    """All blocks of the page: a table and a picture for every measurement, then how it came about."""
    blocks: list[Block] = []
    for number, each in enumerate(found):
        heading: list[Block] = [Heading(labels.measurement(each.results))] if number else []
        blocks += [*heading, Text(tables.measured(each.results)), *_warnings(each), _table(each), Bullets(NOTES)]
        blocks += [_picture(each, f"compare-{number + 1}" if number else "compare"), *_singles(each)]
        blocks += _protocols(each, f"protocols-{number + 1}" if number else "protocols")
    settings = {row.name: [f"{key}={value}" for key, value in row.settings.items()] for row in found[0].rows}
    differing: list[list[Cell]] = [[name, ", ".join(own)] for name, own in settings.items() if own]
    if differing:
        blocks += [Heading("What differs between the settings"), Table(["Model", "Settings"], differing, numeric=False)]
    made = {run: results["environment"].get("command") or "not recorded" for run, results in found[0].runs.items()}
    commands = Code("\n".join(f"# {run}\n{command}" for run, command in made.items()))
    return [*blocks, Heading("How the runs were made"), commands]


def _table(found: Comparison) -> Table:
    """A row per model: accuracy in % under every attack, what training cost, where labels were used, the seeds."""
    rows: list[list[Cell]] = []
    for row in found.rows:
        passes = "not recorded" if row.forward_backward_passes is None else f"{row.forward_backward_passes:,.0f}"
        seeds = Counter(entry.model[0] for entry in row.models)
        trained = ", ".join(f"{seed} ({count}×)" if count > 1 else f"{seed}" for seed, count in seeds.items())
        rows.append([row.name, *_cells(row.models, found), passes, ", ".join(row.label_use) or "none", trained])
    return Table(["Model", *found.columns, "Training passes", "Labels used for", "Seeds"], rows)


def _cells(models: list[Entry], found: Comparison) -> list[Cell]:
    cells: list[Cell] = []
    for own in (score(models, attack) for attack in found.columns.values()):
        spread = "" if own is None or own.std is None else f" ± {labels.percent(own.std)}"
        part = "" if own is None or len(own.single) == len(models) else f" ({len(own.single)} of {len(models)} runs)"
        cells.append((labels.percent(own.mean) + spread, labels.span(own.interval95) + part) if own else "not measured")
    return cells


def _warnings(found: Comparison) -> list[Block]:
    """What a reader must know first: notes on the comparison, and the checks that failed or warned in its runs."""
    said: dict[str, list[str]] = {}
    for run, results in found.runs.items():
        for check in (check for check in results["checks"] if check["status"] in ("warn", "fail")):
            said.setdefault(f"{check['status'].upper()}: {check['name']} — {check['hint']}", []).append(run)
    rows: list[list[Cell]] = [["These runs together", note] for note in found.notes]
    rows += [[", ".join(dict.fromkeys(runs)), what] for what, runs in said.items()]
    return [Table(["Runs", "Before reading the numbers"], rows, numeric=False, alarm=True)] if rows else []


def _picture(found: Comparison, name: str) -> Block:
    curves = "Below: as the attack grows." if found.curves else "No curves: not all runs have the same one."
    dots = " Dots are single seeds." if any(len(row.models) > 1 for row in found.rows) else ""
    alt = "Accuracy of every row under every attack" + (", and over the radius of the attack." if found.curves else ".")
    return Picture(name, _figure(found), alt, f"{curves}{dots} Bars are 95 % intervals.")


def _protocols(found: Comparison, name: str) -> list[Block]:
    """The fall from protocol to protocol, where images were transferred."""
    if (table := protocol_table.table(found)) is None:
        return []
    picture = Picture(name, protocol_table.figure(found), "Accuracy of every model under each protocol.", FALL)
    return [Heading("From protocol to protocol"), picture, table]


@style.styled
def _figure(found: Comparison) -> Figure:
    """Points with 95 % intervals, small dots for single seeds; below, curves where all runs have the same one."""
    heights = [0.5 + len(found.columns) * (0.3 + 0.13 * len(found.rows)), *([3.2] if found.curves else [])]
    names = [textwrap.fill(row.name, 70) for row in found.rows]
    legend_columns = max(1, min(3, len(names), 80 // max(len(name) + 6 for name in names)))
    height = sum(heights) + 0.25 * -(-sum(name.count("\n") + 1 for name in names) // legend_columns)
    figure, axes = style.panels(height, len(heights), gridspec_kw={"height_ratios": heights})
    lines = style.lines("baseline" if row.models[0].stage == "baseline" else "defended" for row in found.rows)
    looks = [line._asdict() | {"markersize": 4.5} for line in lines]
    _draw_points(axes[0, 0], found, looks)
    if curves := found.curves:
        thin = [look | {"linewidth": 1.4, "elinewidth": 0.8} for look in looks]
        attack = labels.attack_title(curves["attack"], {"attacks": {curves["attack"]: curves.get("settings", {})}})
        charts.draw_over_eps(
            axes[1, 0], curves, dict(zip(curves["accuracy"], thin, strict=True)), attack, found.results["threat_model"]
        )
    handles, _ = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=legend_columns)
    return figure


def _draw_points(ax: Axes, found: Comparison, looks: list[dict[str, Any]]) -> None:
    offsets = np.linspace(-0.36, 0.36, len(found.rows)) if len(found.rows) > 1 else [0.0]
    for row, look, offset in zip(found.rows, looks, offsets, strict=True):
        scores = [(i + offset, s) for i, a in enumerate(found.columns.values()) if (s := score(row.models, a))]
        means, intervals = [s.mean for _, s in scores], [s.interval95 for _, s in scores]
        charts.points(ax, np.array([at for at, _ in scores]), means, intervals, **look, elinewidth=1.2, label=row.name)
        for at, own in scores:
            single = own.single if len(own.single) > 1 else []
            ax.plot(100 * np.array(single), [at] * len(single), ".", color=style.INK, markersize=2.5, zorder=3)
    charts.attack_rows(ax, list(found.columns), found.results["threat_model"])
    for edge in range(1, len(found.columns)):
        ax.axhline(edge - 0.5, color=style.PALE, linewidth=0.8, zorder=0)


def _singles(found: Comparison) -> list[Block]:
    """The runs behind the means."""
    rows: list[list[Cell]] = []
    for row in (row for row in found.rows if len(row.models) > 1):
        rows += [[row.name, *_cells([entry], found), str(entry.model[0]), entry.run] for entry in row.models]
    header = ["Model", *found.columns, "Seed", "Run"]
    return [Table(header, rows, summary="The single runs behind the means")] if rows else []
