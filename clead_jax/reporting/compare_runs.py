"""Runs side by side: which numbers share a table, which of them are one row, and what a row is called.

A measurement is a data set, a split, a number of images and a threat model; only runs measured alike share a table. A
column is an attack with its settings: PGD-10 and PGD-20 are two. A row is a model with its settings: runs that differ
in nothing but the seed are one row, its mean and spread; a baseline that several runs trained alike is one row as well.
"""

import json
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clead_jax import config
from clead_jax.core import spec
from clead_jax.reporting import labels
from clead_jax.results import read as files
from clead_jax.results.intervals import Summary, summary

Attack = tuple[str, str]  # name and settings, as canonical JSON
_ORDER = {"clean": 0, "worst_case": 2, "autoattack": 3}


class Entry(NamedTuple):
    """One model of one run, as one evaluation of that run found it."""

    run: str  # the run's folder, as short as it is unique
    config_name: str
    label: str  # in results["models"]: "baseline", "defended", ...
    stage: str  # that trained it; for a model that the user named, its label
    model: tuple[int, str]  # seed and fingerprint of the weights: a copied run counts once
    fields: dict[str, Any]  # every setting but the seed that decided its weights, {"pretrain.epochs": 200, ...}
    accuracy: dict[Attack, float]  # in [0, 1]
    transferred: dict[Attack, float]  # the same under transfer attacks
    source: str  # what their images were made on; empty: there are none
    images: str  # digest of which images were attacked; empty: not recorded
    results: dict[str, Any]


class Row(NamedTuple):
    """Models that differ in the seed alone."""

    name: str
    settings: dict[str, str]  # those in which the row differs from others of its stage
    models: list[Entry]  # one entry each, in the order of the seeds
    runs: list[str]
    forward_backward_passes: float | None  # of all stages a model was trained in, the mean; None: not recorded
    label_use: list[str]  # where class labels were used


class Comparison(NamedTuple):
    """One measurement that several runs share."""

    results: dict[str, Any]  # of one of them: for its data set and threat model
    runs: dict[str, dict[str, Any]]  # the results of all
    columns: dict[str, Attack]  # by title
    rows: list[Row]
    notes: list[str]  # what a reader must know before any number
    curves: dict[str, Any] | None  # {"attack", "settings", "eps", "num_examples", "accuracy": {row: [mean, ...]}}


def read(workdirs: Sequence[str | Path]) -> list[Comparison]:
    """What the runs in `workdirs` have in common: one comparison per shared measurement, in the order of the runs.

    Raises ValueError (one line) for a directory without finished results, for a run that shares no measurement with
    another, and if runs of one seed were attacked on different images.
    """
    distinct = list(dict.fromkeys(os.path.abspath(os.path.expanduser(workdir)) for workdir in workdirs))
    if not distinct:
        raise ValueError("which runs? write --workdirs=A,B,...")
    parent = os.path.commonpath([os.path.dirname(workdir) for workdir in distinct])
    entries = [entry for path in distinct for entry in _entries(path, os.path.relpath(path, parent))]
    every, alike = _runs(entries), dict[str, list[Entry]]()
    for entry in entries:
        data = {key: value for key, value in entry.results["dataset"].items() if key != "class_names"}
        alike.setdefault(json.dumps([data, entry.results["threat_model"]], sort_keys=True), []).append(entry)
    texts = {key: f"{labels.measurement(own[0].results)}{{}}{', '.join(_runs(own))}" for key, own in alike.items()}
    shared = {key: group for key, group in alike.items() if len(_runs(group)) > 1 or len(every) == 1}
    if set(every) - {entry.run for group in shared.values() for entry in group}:
        text = "; ".join(text.format(": ") for text in texts.values())
        raise ValueError(f"no table for runs that were not measured alike: {text}")
    comparisons = [_comparison(group, [run for run in every if run not in _runs(group)]) for group in shared.values()]
    left_out = [text.format(" of ") for key, text in texts.items() if key not in shared]
    comparisons[0].notes.extend(f"Left out, because no other run was measured so: {text}." for text in left_out)
    return comparisons


def _runs(entries: list[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.run for entry in entries))


def _entries(workdir: str, run: str) -> Iterator[Entry]:
    """The models of a run, in its evaluation and in those of other threat models, splits or subsets beside it."""
    cfg, name = config.restore(workdir)
    for found in files.evaluations(workdir).values():
        for label, model in found.results["models"].items():
            saved = model["checkpoint"]
            stages = [saved["stage"]] if saved["stage"] in config.stages_of(cfg) else config.trained_stages(cfg)
            own = [config.portable(config.stage_fields(cfg, stage)) for stage in stages]
            fields = {k: v for each in own for k, v in each.items() if k != "seed"}
            fields |= {"evaluation.which": saved["which"], "evaluation.weights": saved.get("weights", "")}
            identity = (cfg.seed, saved["fingerprint"])
            measured = _measured(found.results, label), *_transferred(found.results, label)
            method = saved["stage"] if label in ("baseline", "defended", saved["stage"]) else label
            yield Entry(run, name, label, method, identity, fields, *measured, found.images, found.results)


def _measured(results: dict[str, Any], label: str) -> dict[Attack, float]:
    """Accuracy in [0, 1] by attack, AutoAttack's too where the results hold its protocol."""
    model = results["models"][label]
    shares, own = dict(model["accuracy"]), results.get("attacks", {}) | model.get("settings", {})
    own |= {name: own.get(name, {}) | {"complete": False} for name in model.get("incomplete", ())}
    parts = {name: own.get(name, {}) for name in labels.worst_case_over(model)}
    stopped = {"complete": False} if labels.is_bound("worst_case", model) else {}
    over = ", ".join(labels.column_title(*part) for part in parts.items())
    own["worst_case"] = {"over": over} | _flat(parts) | stopped
    cascade = results.get("protocols", {}).get("autoattack", {}).get(label, {})
    if "autoattack" in cascade.get("accuracy", {}):
        shares["autoattack"] = cascade["accuracy"]["autoattack"]
        given = {key: cascade[key] for key in ("version", "precision", "complete") if key in cascade}
        own["autoattack"] = given | _flat(cascade.get("settings", {}))
    return {(name, json.dumps(own.get(name, {}), sort_keys=True)): share for name, share in shares.items()}


def _transferred(results: dict[str, Any], label: str) -> tuple[dict[Attack, float], str]:
    """Accuracy in [0, 1] under images made on another model, by attack, and that model in words."""
    own = results.get("protocols", {}).get("paper", {}).get(label, {})
    made = {name: json.dumps(how["settings"], sort_keys=True) for name, how in own.get("made_by", {}).items()}
    shares = {(name, made.get(name, "{}")): share for name, share in own.get("accuracy", {}).items()}
    source = own.get("source", "baseline")
    return shares, ("the undefended model" if source == "baseline" else source) if shares else ""


def _flat(settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, own in settings.items() for key, value in own.items()}


def _comparison(entries: list[Entry], absent: list[str]) -> Comparison:
    """The table of entries that were measured alike; the runs in `absent` were not."""
    notes = [f"Not in this table, because not measured so: {', '.join(absent)}."] if absent else []
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.stage != "baseline"):
        groups.setdefault((entry.stage, json.dumps(entry.fields, sort_keys=True)), []).append(entry)
    rows = [_row(group, list(groups.values())) for group in groups.values()]
    notes += _notes_on_images(entries)
    results = {run: next(entry.results for entry in entries if entry.run == run) for run in _runs(entries)}
    return Comparison(entries[0].results, results, _columns(entries), rows, notes, _curves(rows))


def _notes_on_images(entries: list[Entry]) -> list[str]:
    """With data.test_size every seed draws images of its own, which is fair only if all rows have the same seeds."""
    sets: dict[int, dict[str, str]] = {}  # seed -> digest -> a run that has it
    for entry in filter(lambda entry: entry.images, entries):
        sets.setdefault(entry.model[0], {}).setdefault(entry.images, entry.run)
    for seed, runs in sets.items():
        if len(runs) > 1:
            what = f"had different images of {labels.measurement(entries[0].results)}"
            raise ValueError(f"{' and '.join(runs.values())}, both of seed {seed}, {what}")
    contents: dict[tuple[str, str], str] = {}  # (which images, digest of images and labels) -> a run that has them
    for entry in entries:
        if content := entry.results.get("data_fingerprint"):
            contents.setdefault((entry.images, content), entry.run)
    if len({images for images, _ in contents}) < len(contents):
        what = f"images or labels of one name that differ: {labels.measurement(entries[0].results)}"
        raise ValueError(f"{' and '.join(contents.values())} were measured on {what}")
    unknown = ", ".join(sorted({entry.run for entry in entries if not entry.images}))
    notes = [f"Which images were attacked is not recorded in {unknown}."] if unknown else []
    if len({digest for runs in sets.values() for digest in runs}) > 1:
        notes.append("Every seed was attacked on test images of its own (data.test_size): compare rows of equal seeds.")
    return notes


def _columns(entries: list[Entry]) -> dict[str, Attack]:
    """Title -> attack, every title once: with the settings that differ, or the attack's name, where that takes it."""
    attacks = sorted(dict.fromkeys(a for entry in entries for a in entry.accuracy), key=lambda a: _ORDER.get(a[0], 1))
    titles = []
    for name, settings in attacks:
        own, title = json.loads(settings), labels.column_title(name, json.loads(settings))
        alike = [json.loads(other) for same, other in attacks if same == name]
        if [labels.column_title(name, other) for other in alike].count(title) > 1:
            differing = _differing(alike)
            shown = ["over"] if "over" in differing else [key for key in differing if key in own]
            title += f" ({', '.join(f'{key} {labels.scalar(own[key])}' for key in shown)})"
        titles.append(title)
    named = [f"{t} [{a[0]}]" if titles.count(t) > 1 else t for t, a in zip(titles, attacks, strict=True)]
    return dict(zip(named, attacks, strict=True))


def _row(group: list[Entry], groups: list[list[Entry]]) -> Row:
    """The row of `group`, named by the method; where several rows share it also by the config, or by what differs."""
    first, models = group[0], dict[tuple[int, str], Entry]()
    for entry in sorted(group, key=lambda entry: entry.model[0]):
        same = models.get(entry.model, entry)
        both = {of: getattr(entry, of) | getattr(same, of) for of in ("accuracy", "transferred")}
        models[entry.model] = entry._replace(**both)
    alike = [other for other in groups if other[0].stage == first.stage]
    differing = _differing([other[0].fields for other in alike])
    settings = {key: spec.visible(str(first.fields.get(key, "absent"))) or "none" for key in differing}
    name = method = labels.model_title(first.label, first.results)
    if len(alike) > 1:
        names = [{entry.config_name for entry in other} for other in alike]
        unique = all(len(own) == 1 for own in names) and len(set[str]().union(*names)) == len(alike)
        own = first.config_name if unique else ", ".join(f"{key}={value}" for key, value in settings.items())
        defences = {other[0].stage for other in groups} - {"baseline"}
        name = own if defences == {first.stage} else f"{method}: {own}"
    spent = list(filter(None, map(_passes, models.values())))
    uses = list(dict.fromkeys(use for e in group for use in e.results.get("label_use", {}).get(e.label, [])))
    return Row(name, settings, list(models.values()), _runs(group), statistics.fmean(spent) if spent else None, uses)


def _passes(entry: Entry) -> int:
    """Every stage whose settings decided the model had to be trained for it; 0: not recorded."""
    cost, stages = entry.results.get("training_cost", {}), {key.split(".")[0] for key in entry.fields}
    return sum(spent["forward_backward_passes"] for stage, spent in cost.items() if stage in stages)


def _differing(dicts: list[dict[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for each in dicts for key in each)
    return [key for key in keys if any(key not in each or each[key] != dicts[0].get(key) for each in dicts)]


def score(models: list[Entry], attack: Attack) -> Summary | None:
    """What a cell of the table says; None where it was not measured."""
    single = [entry.accuracy[attack] for entry in models if attack in entry.accuracy]
    return summary(single, models[0].results["dataset"]["num_examples"]) if single else None


def _curves(rows: list[Row]) -> dict[str, Any] | None:
    """None unless every row has a curve, and all of one attack, the same radii and as many images."""
    plans, means = list[dict[str, Any]](), dict[str, list[float]]()
    for row in rows:
        found = [(entry.results.get("curves") or {}, entry.label) for entry in row.models]
        drawn = [(plan, plan["accuracy"][label]) for plan, label in found if label in plan.get("accuracy", {})]
        plans += [plan | {"accuracy": means} for plan, _ in drawn]
        means[row.name] = [statistics.fmean(at) for at in zip(*(shares for _, shares in drawn), strict=False)]
    if not all(means.values()) or any(plan != plans[0] for plan in plans):
        return None
    return {"num_examples": rows[0].models[0].results["dataset"]["num_examples"]} | plans[0]
