"""A comparison as a page, as text for the terminal, and as plain values for a program."""

import json
from collections import Counter
from typing import Any

from clead_jax.reporting import compare_chart as comparison_chart
from clead_jax.reporting import compare_runs as comparison
from clead_jax.reporting import labels as wording
from clead_jax.reporting import render, tables
from clead_jax.reporting.compare_runs import Comparison, Row, Score
from clead_jax.reporting.render import Block, Bullets, Cell, Code, Heading, Picture, Table, Text

NOTES = [
    "Brackets: 95 % interval for the number of images. ±: standard deviation over seeds (n − 1).",
    "Worst case: an image counts only if it withstands every attack the run was evaluated with, AutoAttack aside.",
    "Training passes: forward and backward passes of every stage the model stands on, added up over single images.",
]


def title(found: list[Comparison]) -> str:
    """The page's title."""
    return f"Runs compared: {found[0].results['dataset']['name']}"


def compose(found: list[Comparison]) -> list[Block]:
    """All blocks of the page: a table and a picture for every measurement, then how it came about."""
    blocks: list[Block] = []
    for number, each in enumerate(found):
        heading: list[Block] = [Heading(comparison.described(comparison.measurement(each.results)))] if number else []
        blocks += [*heading, Text(tables.measured(each.results)), *_warnings(each), table(each), Bullets(NOTES)]
        blocks += [_picture(each, f"compare-{number + 1}" if number else "compare"), *_singles(each)]
    return [*blocks, *_differences(found[0]), *_commands(found[0])]


def text(found: list[Comparison]) -> str:
    """Measurements and tables for the terminal."""
    return "\n\n".join(
        "\n".join([tables.measured(each.results), *each.notes, "", render.text(table(each))]) for each in found
    )


def table(found: Comparison) -> Table:
    """A row per model: accuracy in % under every attack, what training cost, where labels were used, the seeds."""
    header = ["Model", *(column.title for column in found.columns), "Training passes", "Labels used for", "Seeds"]
    return Table(header, [_row(row, found) for row in found.rows])


def _row(row: Row, found: Comparison) -> list[Cell]:
    cells = [_cell(comparison.score(row, column), len(row.models)) for column in found.columns]
    passes, seeds = comparison.passes(row), Counter(seed for seed, _ in row.models)
    trained = ", ".join(f"{seed}" + (f" ({count}×)" if count > 1 else "") for seed, count in seeds.items())
    labels = ", ".join(comparison.labels(row))
    return [row.name, *cells, "not recorded" if passes is None else f"{passes:,.0f}", labels or "none", trained]


def _cell(score: Score | None, models: int) -> Cell:
    if score is None:
        return "not measured"
    spread = "" if score.std is None else f" ± {wording.percent(score.std)}"
    part = "" if len(score.shares) == models else f" ({len(score.shares)} of {models} runs)"
    return wording.percent(score.mean) + spread, wording.span(score.interval95) + part


def _warnings(found: Comparison) -> list[Block]:
    """What a reader must know first: notes on the comparison, and the doubts the runs have about their own numbers."""
    rows: list[list[Cell]] = [["These runs together", note] for note in found.notes]
    doubts: dict[str, list[str]] = {}
    for run, results in {entry.run: entry.results for row in found.rows for entry in row.entries}.items():
        for check in results["checks"]:
            if check["status"] in ("warn", "fail"):
                said = f"{check['status'].upper()}: {check['name']} — {check['hint']}"
                doubts.setdefault(said, []).append(run)
    rows += [[", ".join(dict.fromkeys(runs)), said] for said, runs in doubts.items()]
    return [Table(["Runs", "Before reading the numbers"], rows, numeric=False, alarm=True)] if rows else []


def _picture(found: Comparison, name: str) -> Block:
    curves = comparison.curves(found)
    none = "No curves: not every run has one of the same attack and radii. "
    below = "Below: as the attack grows. " if curves else none
    dots = "Dots are single seeds. " if any(len(row.models) > 1 for row in found.rows) else ""
    alt = "Accuracy of every row under every attack" + (", and over the radius of the attack." if curves else ".")
    return Picture(name, comparison_chart.picture(found), alt, f"{below}{dots}Bars are 95 % intervals.")


def _singles(found: Comparison) -> list[Block]:
    """The runs behind the means."""
    rows: list[list[Cell]] = []
    for row in found.rows:
        for model, entry in row.models.items() if len(row.models) > 1 else ():
            alone = Row(row.name, [each for each in row.entries if each.model == model])
            cells = [_cell(comparison.score(alone, column), 1) for column in found.columns]
            rows.append([row.name, *cells, str(entry.seed), entry.run])
    header = ["Model", *(column.title for column in found.columns), "Seed", "Run"]
    return [Table(header, rows, summary="The single runs behind the means")] if rows else []


def _differences(found: Comparison) -> list[Block]:
    """The settings in which rows of one stage differ."""
    firsts = [row.entries[0] for row in found.rows]
    rows: list[list[Cell]] = [
        [row.name, ", ".join(f"{key}={value}" for key, value in differing.items())]
        for row, first in zip(found.rows, firsts, strict=True)
        if (differing := comparison.differing_fields(first, firsts))
    ]
    heading = Heading("What differs between the settings")
    return [heading, Table(["Model", "Settings"], rows, numeric=False)] if rows else []


def _commands(found: Comparison) -> list[Block]:
    runs = {entry.run: entry.results["environment"] for row in found.rows for entry in row.entries}
    lines = [f"# {run}\n{environment.get('command') or 'not recorded'}" for run, environment in runs.items()]
    return [Heading("How the runs were made"), Code("\n".join(lines))]


def plain(found: list[Comparison]) -> dict[str, Any]:
    """All numbers as JSON values: {"schema": 1, "comparisons": [{dataset, threat_model, notes, rows, curves}, ...]}.

    A row has "name", "stage", "settings" (those that differ), "seeds", "runs", "accuracy" {title: {"attack",
    "settings", "mean", "std", "interval95", "single"}} in [0, 1], "forward_backward_passes", "label_use".
    """
    return {"schema": 1, "comparisons": [_plain(each) for each in found]}


def _plain(found: Comparison) -> dict[str, Any]:
    firsts = [row.entries[0] for row in found.rows]
    return {
        "dataset": found.results["dataset"],
        "threat_model": found.results["threat_model"],
        "notes": found.notes,
        "rows": [
            {
                "name": row.name,
                "stage": row.entries[0].stage,
                "settings": comparison.differing_fields(row.entries[0], firsts),
                "seeds": [seed for seed, _ in row.models],
                "runs": list(dict.fromkeys(entry.run for entry in row.entries)),
                "accuracy": {
                    column.title: {"attack": column.attack, "settings": json.loads(column.settings)} | _numbers(score)
                    for column in found.columns
                    if (score := comparison.score(row, column))
                },
                "forward_backward_passes": comparison.passes(row),
                "label_use": comparison.labels(row),
            }
            for row in found.rows
        ],
        "curves": comparison.curves(found),
    }


def _numbers(score: Score) -> dict[str, Any]:
    return {
        "mean": score.mean,
        "std": score.std,
        "interval95": list(score.interval95),
        "single": list(score.shares.values()),
    }
