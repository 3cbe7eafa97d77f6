"""Runs side by side: which numbers may stand in one table, which of them are one row, and what a row is called.

A measurement is a data set, a split, a number of images and a threat model; only runs measured alike share a table. A
column is an attack with its settings: PGD-10 and PGD-20 are two. A row is a model with its settings: runs that differ
in nothing but the seed are one row, its mean and spread; a baseline that several runs trained alike is one row as well.
"""

import json
import statistics as moments
from collections.abc import Iterable
from typing import Any, NamedTuple

from clead_jax.reporting import labels as wording
from clead_jax.results.intervals import interval95

Measurement = tuple[Any, ...]
_ORDER = {"clean": 0, "worst_case": 2, "autoattack": 3}


class Entry(NamedTuple):
    """One model of one run, as one evaluation of that run found it."""

    run: str  # the run's folder, as short as it is unique
    config_name: str
    label: str  # in results["models"]: "baseline", "defended", ...
    stage: str  # that trained it
    seed: int
    fields: dict[str, Any]  # every setting but the seed that decided its weights, {"pretrain.epochs": 200, ...}
    images: str  # digest of which images were attacked; empty: not recorded
    results: dict[str, Any]

    @property
    def model(self) -> tuple[int, str]:
        """What tells it from the other models of its row: a copied run counts once."""
        return self.seed, self.results["models"][self.label]["checkpoint"]["fingerprint"]


class Column(NamedTuple):
    """An attack with its settings, as canonical JSON."""

    attack: str
    settings: str
    title: str = ""


class Score(NamedTuple):
    """A field of the table: shares in [0, 1] by model, and what they come to."""

    shares: dict[tuple[int, str], float]
    mean: float
    std: float | None  # over the models, with n - 1; None for one
    interval95: tuple[float, float]  # of the mean, for the number of images: the chance in choosing them


class Row(NamedTuple):
    """Models that differ in the seed alone."""

    name: str
    entries: list[Entry]

    @property
    def models(self) -> dict[tuple[int, str], Entry]:
        """One entry per model, in the order of the seeds."""
        return {entry.model: entry for entry in sorted(self.entries, key=lambda entry: entry.seed)}


class Comparison(NamedTuple):
    """One measurement that several runs share."""

    results: dict[str, Any]  # of one of them: for its data set and threat model
    columns: list[Column]
    rows: list[Row]
    notes: list[str]  # what a reader must know before any number


def measurement(results: dict[str, Any]) -> Measurement:
    """What two evaluations must have in common to be compared."""
    data, threat = results["dataset"], results["threat_model"]
    return data["name"], data["split"], data["num_examples"], data.get("num_classes"), threat["norm"], threat["eps"]


def described(found: Measurement) -> str:
    """A measurement in words."""
    name, split, count, _, norm, eps = found
    return f"{name}, {count:,} {split} images, {wording.radius(norm, eps)}"


def compare(runs: list[list[Entry]]) -> list[Comparison]:
    """Entries of every run -> a comparison for each measurement that several runs share, in the order of the runs.

    Raises ValueError (one line) for a run that shares none with another, and if runs of one seed were attacked on
    different images.
    """
    having = _having(runs)
    shared = [found for found, names in having.items() if len(names) > 1 or len(runs) == 1]
    together = {name for found in shared for name in having[found]}
    if len(together) < len(runs):
        text = "; ".join(f"{described(found)}: {', '.join(names)}" for found, names in having.items())
        raise ValueError(f"no table for runs that were not measured alike: {text}")
    every = [entry for run in runs for entry in run]
    left_out = [
        f"Left out, because no other run was measured so: {described(found)} of {', '.join(names)}."
        for found, names in having.items()
        if found not in shared
    ]
    comparisons = []
    for found in shared:
        own = [entry for entry in every if measurement(entry.results) == found]
        others = [run[0].run for run in runs if run[0].run not in having[found]]
        absent = [f"Not in this table, because not measured so: {', '.join(others)}."] if others else []
        comparisons.append(Comparison(own[0].results, _columns(own), _rows(own), absent + _same_images(own)))
    comparisons[0].notes.extend(left_out)
    return comparisons


def _having(runs: list[list[Entry]]) -> dict[Measurement, list[str]]:
    """The measurements, and which runs have them."""
    having: dict[Measurement, list[str]] = {}
    for run in runs:
        for found in dict.fromkeys(measurement(entry.results) for entry in run):
            having.setdefault(found, []).append(run[0].run)
    return having


def _same_images(entries: list[Entry]) -> list[str]:
    """Notes on the images. With data.test_size every seed draws its own, which is fair only if all rows have them."""
    unknown = sorted({entry.run for entry in entries if not entry.images})
    by_seed: dict[int, dict[str, str]] = {}
    for entry in entries:
        if entry.images:
            by_seed.setdefault(entry.seed, {}).setdefault(entry.images, entry.run)
    for seed, sets in by_seed.items():
        if len(sets) > 1:
            what = described(measurement(entries[0].results))
            raise ValueError(f"{' and '.join(sets.values())}, both of seed {seed}, had different images of {what}")
    notes = [f"Which images were attacked is not recorded in {', '.join(unknown)}."] if unknown else []
    if len({images for sets in by_seed.values() for images in sets}) > 1:
        notes.append("Every seed was attacked on test images of its own (data.test_size): compare rows of equal seeds.")
    return notes


# --- columns ----------------------------------------------------------------------------------------------------------


def _columns(entries: list[Entry]) -> list[Column]:
    found = list(dict.fromkeys(column for entry in entries for column in _measured(entry)))
    found.sort(key=lambda column: _ORDER.get(column.attack, 1))
    titles = [_title(column, found) for column in found]
    doubled = {title for title in titles if titles.count(title) > 1}  # "pgd" and "pgd(steps=20)" may come to the same
    return [
        column._replace(title=f"{title} [{column.attack}]" if title in doubled else title)
        for column, title in zip(found, titles, strict=True)
    ]


def _measured(entry: Entry) -> dict[Column, float]:
    """Accuracy in [0, 1] by column, AutoAttack's too where the results hold its protocol."""
    model = entry.results["models"][entry.label]
    shares, settings = dict(model["accuracy"]), entry.results.get("attacks", {}) | model.get("settings", {})
    attacked = {name: settings.get(name, {}) for name in wording.worst_case_over(model)}
    over = ", ".join(_plain_title(name, own) for name, own in attacked.items())
    settings = settings | {"worst_case": {"over": over} | _flat(attacked)}
    cascade = entry.results.get("protocols", {}).get("autoattack", {}).get(entry.label, {})
    if "autoattack" in cascade.get("accuracy", {}):
        shares["autoattack"] = cascade["accuracy"]["autoattack"]
        own = {key: cascade[key] for key in ("version", "precision", "complete") if key in cascade}
        settings["autoattack"] = own | _flat(cascade.get("settings", {}))
    return {Column(name, json.dumps(settings.get(name, {}), sort_keys=True)): share for name, share in shares.items()}


def _flat(settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, own in settings.items() for key, value in own.items()}


def _title(column: Column, columns: list[Column]) -> str:
    """The attack's title; with the settings that differ, where it alone would stand over two columns."""
    settings = [json.loads(other.settings) for other in columns if other.attack == column.attack]
    own, plain = json.loads(column.settings), _plain_title(column.attack, json.loads(column.settings))
    if [_plain_title(column.attack, other) for other in settings].count(plain) == 1:
        return plain
    differing = _differing(settings)
    shown = ["over"] if "over" in differing else [key for key in differing if key in own]
    return f"{plain} ({', '.join(f'{key} {wording.scalar(own[key])}' for key in shown)})"


def _plain_title(attack: str, settings: dict[str, Any]) -> str:
    """As in the report; an AutoAttack that is no finished standard one says so."""
    title = wording.attack_title(attack, {"attacks": {attack: settings}})
    title += f" {settings['version']}" if settings.get("version", "standard") != "standard" else ""
    return title if settings.get("complete", True) else f"{title}, stopped early (upper bound)"


# --- rows -------------------------------------------------------------------------------------------------------------


def _rows(entries: list[Entry]) -> list[Row]:
    """Baselines first, otherwise in the order given."""
    grouped: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        grouped.setdefault((entry.stage, json.dumps(entry.fields, sort_keys=True)), []).append(entry)
    groups = sorted(grouped.values(), key=lambda group: group[0].stage != "baseline")
    return [Row(name, group) for name, group in zip(_names(groups), groups, strict=True)]


def _names(groups: list[list[Entry]]) -> list[str]:
    """By method; by the config's name where several rows share the method; or else by the settings that differ."""
    stages = [group[0].stage for group in groups]
    defended = {stage for stage in stages if stage != "baseline"}
    names = []
    for group in groups:
        method = wording.model_title(group[0].label, group[0].results)
        alike = [other for other in groups if other[0].stage == group[0].stage]
        if len(alike) == 1:
            names.append(method)
            continue
        of_config = [{entry.config_name for entry in other} for other in alike]
        unique = len(set[str]().union(*of_config)) == len(alike) and all(len(found) == 1 for found in of_config)
        own = group[0].config_name if unique else _settings(group, alike)
        names.append(own if {group[0].stage} == defended else f"{method}: {own}")
    return names


def _settings(group: list[Entry], alike: list[list[Entry]]) -> str:
    return ", ".join(f"{key}={value}" for key, value in differing_fields(group[0], [g[0] for g in alike]).items())


def differing_fields(entry: Entry, others: Iterable[Entry]) -> dict[str, str]:
    """The settings of `entry` that are not the same in all `others` of its stage, as they are written."""
    differing = _differing([other.fields for other in others if other.stage == entry.stage])
    return {key: str(entry.fields.get(key, "absent")) or "none" for key in differing}


def _differing(dicts: list[dict[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for each in dicts for key in each)
    return [key for key in keys if any(key not in each or each[key] != dicts[0].get(key) for each in dicts)]


# --- numbers ----------------------------------------------------------------------------------------------------------


def score(row: Row, column: Column) -> Score | None:
    """What stands in a field of the table; None where it was not measured."""
    wanted, shares = column._replace(title=""), dict[tuple[int, str], float]()
    for entry in sorted(row.entries, key=lambda entry: entry.seed):
        measured = _measured(entry)
        if wanted in measured:
            shares.setdefault(entry.model, measured[wanted])
    if not shares:
        return None
    count = row.entries[0].results["dataset"]["num_examples"]
    mean = moments.fmean(shares.values())
    std = moments.stdev(shares.values()) if len(shares) > 1 else None
    return Score(shares, mean, std, interval95(mean * count, count))


def passes(row: Row) -> float | None:
    """Forward+backward passes of all stages the model stands on, the mean over its seeds; None if not recorded."""
    spent = [_passes(entry) for entry in row.models.values()]
    known = [each for each in spent if each is not None]
    return moments.fmean(known) if known else None


def _passes(entry: Entry) -> float | None:
    """Every stage whose settings decided the model had to be trained for it."""
    cost, sections = entry.results.get("training_cost", {}), {key.split(".")[0] for key in entry.fields}
    known = [spent["forward_backward_passes"] for stage, spent in cost.items() if stage in sections]
    return sum(known) if known else None


def labels(row: Row) -> list[str]:
    """Where class labels were used."""
    return list(dict.fromkeys(use for e in row.entries for use in e.results.get("label_use", {}).get(e.label, [])))


def curves(comparison: Comparison) -> dict[str, Any] | None:
    """Accuracy over eps, the mean of every row: {"attack", "settings", "eps", "num_examples", "accuracy": {row: []}}.

    None unless every row has a curve, and all of one attack, of one grid of radii and as many images.
    """
    drawn: dict[str, list[tuple[dict[str, Any], list[float]]]] = {}
    for row in comparison.rows:
        found = [(entry.results.get("curves") or {}, entry.label) for entry in row.models.values()]
        drawn[row.name] = [(c, c["accuracy"][label]) for c, label in found if label in c.get("accuracy", {})]
    plans = [
        {key: value for key, value in curve.items() if key != "accuracy"} for own in drawn.values() for curve, _ in own
    ]
    if not all(drawn.values()) or any(plan != plans[0] for plan in plans):
        return None
    means = {name: [moments.fmean(at) for at in zip(*(c for _, c in own), strict=True)] for name, own in drawn.items()}
    return {"num_examples": comparison.results["dataset"]["num_examples"]} | plans[0] | {"accuracy": means}
