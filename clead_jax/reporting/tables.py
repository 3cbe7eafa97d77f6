"""The before/after table in the layout of C-LEAD's Table 1 (a row per attack, without and with), and the small ones."""

import json
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from clead_jax.core.spec import duration
from clead_jax.reporting import headline, labels, render
from clead_jax.reporting.render import Cell, Table
from clead_jax.results.intervals import PRELIMINARY, paired_difference

PAPER_COLUMN = "Paper, not measured here"
SIDE_BY_SIDE = 6  # columns that a page has room for
_CITED = ("fgsm", "pgd", "cw")


@cache
def paper() -> dict[str, Any]:
    """The paper's own figures, as accuracies in [0, 1]; null is one that it does not give. Source included."""
    return json.loads(resources.files("clead_jax.reporting").joinpath("paper.json").read_text(encoding="utf-8"))


def before_after(results: dict[str, Any], per_example: dict[str, np.ndarray] | None = None) -> Table:
    """Accuracy in % with its 95 % interval: a row per attack, a column per model, and the gain where there are two.

    With the per-example records the gain gets an interval of its own, over the same images before and after.
    """
    models = results["models"]
    compared = {"baseline", "defended"} <= models.keys()
    header = ["Attack", *(labels.model_title(model, results) for model in models), *(["Gain"] if compared else [])]
    rows: list[list[Cell]] = []
    for attack in labels.attacks_of(results):
        seen = [word for word in ("seen", "unseen") if attack in results[f"{word}_attacks"]]
        row: list[Cell] = [(labels.attack_title(attack, results), f"({seen[0]})" if seen else "")]
        row += [labels.accuracy(attack, model) for model in models.values()]
        rows.append(row + ([_gain(attack, models, per_example)] if compared else []))
    return Table(header, rows)


def with_paper(table: Table, results: dict[str, Any], backbone: str) -> Table:
    """The table with one more column: what the paper reports for this data set, backbone and attack.

    Without and with the defence, each as the paper's sub-columns: "18.4 / 13.6 → 25.8 / 25.0".
    """
    reported = paper()["table1"].get(backbone, {}) if results["dataset"]["name"] == paper()["dataset"] else {}
    side = lambda shares: " / ".join(map(labels.percent, shares)) if shares else "not given"
    cells = {attack: f"{side(found['without'])} → {side(found['with'])}" for attack, found in reported.items()}
    attacks = labels.attacks_of(results)
    rows = [[*row, cells.get(name, "—")] for row, name in zip(table.rows, attacks, strict=True)]
    return Table([*table.header, PAPER_COLUMN], rows)


def fitted(table: Table) -> Table:
    """A table with a column per model, turned so that each is a row where there are more than fit side by side."""
    if len(table.header) <= 1 + SIDE_BY_SIDE:
        return table
    header = [" ".join(filter(None, row[0])) if isinstance(row[0], tuple) else row[0] for row in table.rows]
    columns = zip(*(row[1:] for row in table.rows), strict=True)
    rows: list[list[Cell]] = [[title, *cells] for title, cells in zip(table.header[1:], columns, strict=True)]
    return table._replace(header=["Model", *header], rows=rows)


def cited_by_paper() -> Table:
    """The paper's Table 2: accuracies in % that it cites from other works, beside its own."""
    rows: list[list[Cell]] = [
        [each["method"], each["backbone"], *("—" if each[a] is None else labels.percent(each[a]) for a in _CITED)]
        for each in paper()["table2"]
    ]
    header = ["Method", "Backbone", *(labels.attack_title(attack, {}) for attack in _CITED)]
    return Table(header, rows, summary="The paper's Table 2, not measured here")


def table_text(results: dict[str, Any]) -> str:
    """The before/after table for the terminal, under what was measured, over a line per model for more protocols."""
    parts = [measured(results), render.text(fitted(before_after(results)))]
    parts += map(render.text, draws(results))
    if headline.measured(results).keys() - {"whitebox"}:
        parts.append("\n".join(headline.sentence(model, results) for model in results["models"]))
    return "\n\n".join(parts)


def measured(results: dict[str, Any]) -> str:
    """What the numbers are about: data set, examples, threat model, unit."""
    data = results["dataset"]
    note = " (preliminary: fewer than 1,000)" if data["num_examples"] < PRELIMINARY else ""
    saved = {model.get("checkpoint", {}).get("which", "latest") for model in results["models"].values()} - {"latest"}
    note += f", checkpoint {', '.join(sorted(saved))}" if saved else ""
    return (
        f"{data['name']}, {data['num_examples']:,} {data['split']} images{note}; "
        f"{labels.radius(**results['threat_model'])}; accuracy in % with 95 % intervals."
    )


def union(found: dict[str, Any], results: dict[str, Any]) -> Table:
    """Accuracy in % with its interval under all attacks in each norm, and in all norms together, a column per model."""
    models = {label: model for label, model in found["models"].items() if label in results["models"]}
    titles = {threat["norm"]: labels.radius(**threat) for threat in found["threat_models"]}
    titles = {"clean": labels.attack_title("clean", results), **titles, "union": "All of these norms"}
    rows: list[list[Cell]] = [
        [title, *(labels.accuracy(name, model) for model in models.values())] for name, title in titles.items()
    ]
    return Table(["Norm", *(labels.model_title(model, results) for model in models)], rows)


def corruptions(results: dict[str, Any]) -> Table:
    """Accuracy in % under each common corruption, the mean of all severities with the strongest below, and over all."""
    found, rows = results["corruptions"], list[list[Cell]]()
    for name in next(iter(found.values()))["accuracy"]:
        shares = [model["accuracy"].get(name) for model in found.values()]
        mean = lambda of: (labels.percent(sum(of) / len(of)), f"(severity 5: {labels.percent(of[-1])})")
        rows.append([name.replace("_", " "), *("not measured" if of is None else mean(of) for of in shares)])
    for title, field in (("Mean of all", "mean"), ("Worst of these", "worst")):
        rows.append([title, *(labels.percent(model[field]) for model in found.values())])
    return Table(["Corruption", *(labels.model_title(model, results) for model in found)], rows)


def draws(results: dict[str, Any]) -> list[Table]:
    """Of models that draw noise, accuracy by single fresh draws: on average, and in every one. Empty if there are none.

    The tables before judge by the mean probability of several draws.
    """
    rows: list[list[Cell]] = [
        [
            f"{labels.attack_title(attack, results)}: {labels.model_title(model, results)}",
            *(labels.percent(share) for share in (found["mean"], found["worst"])),
            str(found["n"]),
        ]
        for model, entry in results["models"].items()
        for attack, found in entry.get("draws", {}).items()
    ]
    return [Table(["Attack and randomised model", "Mean of fresh draws", "Right in all of them", "Draws"], rows)][
        : len(rows)
    ]


def distances(results: dict[str, Any]) -> Table:
    """How far minimal-norm attacks had to move an image, per attack and model."""
    rows: list[list[Cell]] = []
    for attack, by_model in results["distances"].items():
        for model, found in by_model.items():
            name = f"{labels.attack_title(attack, results)}: {labels.model_title(model, results)}"
            share = labels.percent(found["success"]), f"of {found['num_examples']:,}"
            rows.append([name, *_decimals(found, ("median", "mean"), "none found"), share])
    return Table(["Attack and model", "Median distance", "Mean distance", "Found, %"], rows)


def clusters(results: dict[str, Any]) -> Table:
    """How well the features of every model fall into classes, clean and attacked."""
    rows: list[list[Cell]] = [
        [f"{labels.model_title(model, results)}: {state}", *_decimals(found, ("intra", "inter", "silhouette"), "—")]
        for model, by_state in results["clusters"].items()
        for state, found in by_state.items()
    ]
    return Table(["Features", "Distance within classes", "Between classes", "Silhouette"], rows)


def _decimals(found: dict[str, Any], names: tuple[str, ...], absent: str) -> list[str]:
    return [absent if found[name] is None else f"{found[name]:.3f}" for name in names]


def cost(results: dict[str, Any]) -> Table:
    """What every stage cost."""
    spent = results["training_cost"].items()
    rows: list[list[Cell]] = [[k, f"{v['forward_backward_passes']:,}", duration(v["seconds"])] for k, v in spent]
    return Table(["Stage", "Forward and backward passes", "Time"], rows)


def checks(found: list[dict[str, Any]], results: dict[str, Any]) -> Table:
    """Checks with value and advice, the failed ones first; "ball/defended" is the check `ball` of that model."""
    rows: list[list[Cell]] = []
    for check in sorted(found, key=lambda check: ("fail", "warn", "ok", "skipped").index(check["status"])):
        name, _, model = check["name"].partition("/")
        title = labels.model_title(model, results) if model in results["models"] else model
        cell = (name, f"({title})" if title else "")
        rows.append([cell, check["status"].upper(), labels.scalar(check["value"]), check["hint"]])
    return Table(["Check", "Status", "Value", "What it means, and what to do"], rows, numeric=False)


def facts(values: dict[str, Any]) -> Table:
    """Names and values, as they are."""
    return Table(["", "Value"], [[name, labels.scalar(value)] for name, value in values.items()], numeric=False)


def _gain(attack: str, models: dict[str, Any], per_example: dict[str, np.ndarray] | None) -> Cell:
    compared = {name: models[name] for name in ("baseline", "defended")}
    if not all(attack in model["accuracy"] for model in compared.values()):
        return "not measured"
    if any(labels.is_bound(attack, model) for model in compared.values()):
        return "unknown"  # a difference of upper bounds bounds nothing
    gain = labels.points(models["defended"]["accuracy"][attack] - models["baseline"]["accuracy"][attack])
    correct = []  # bool [N]; the worst case has no record: it is several others together
    for name, model in compared.items():
        parts = ("clean", *labels.worst_case_over(model)) if attack == "worst_case" else (attack,)
        records = [record for part in parts if (record := (per_example or {}).get(f"{name}/{part}")) is not None]
        if len(records) < len(parts):
            return gain, ""
        correct.append(np.logical_and.reduce(records))
    return gain, labels.span(paired_difference(*correct), labels.points)
