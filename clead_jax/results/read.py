"""Reads what a run left in its work directory, for reports and comparisons.

Only evaluation/results.json must exist; of the rest, what is missing is None (or no lines), and the report says so. A
file that is there and cannot be read is an error that names it: no report hides a broken record.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clead_jax.core import spec
from clead_jax.results import forms, jsonl, union
from clead_jax.results.consistency import contradictions
from clead_jax.results.files import load_arrays, load_json
from clead_jax.results.forms import Arrays
from clead_jax.results.intervals import interval95

SCHEMA, TRAIN = 1, "the training command writes a new one"
REQUIRED = ("dataset", "threat_model", "models", "seen_attacks", "unseen_attacks", "checks", "environment")


class Evaluation(NamedTuple):
    """One evaluation directory: its results.json, and its per_example.npz ("<model>/<attack>" bool [N])."""

    results: dict[str, Any]
    per_example: Arrays | None

    @property
    def images(self) -> str:
        """Digest of which images were attacked; empty where that is not recorded."""
        index = (self.per_example or {}).get("index")
        return "" if index is None else hashlib.sha256(index.astype(np.int64).tobytes()).hexdigest()


class Inputs(NamedTuple):
    """The files of one work directory as plain values. Layouts: README, section "In the work directory"."""

    workdir: str  # as it was typed, for commands to repeat; DIR in place of an absolute path
    results: dict[str, Any]
    config: dict[str, Any] | None
    metrics: list[dict[str, Any]]  # one per line, in the order written
    per_example: Arrays | None
    samples: Arrays | None  # "clean", "<model>/<attack>" float [n, H, W, C]
    embeddings: Arrays | None  # "<model>", "<model>/adversarial" float [m, F]
    others: dict[str, dict[str, Any]]  # tag -> results of evaluation/<tag>/: another threat model, split or subset
    union: dict[str, Any] | None = None  # of several threat models: see `union.stored`
    extra: dict[str, Any] | None = None  # extra data against the test split: see `experiment.extra_data`


def read(workdir: str | Path) -> Inputs:
    """Reads a work directory. Raises ValueError, in one line, for missing results or an unreadable file."""
    workdir = Path(workdir).expanduser()
    if not workdir.is_dir():
        raise ValueError(f"work directory {workdir} does not exist")
    found = evaluations(workdir)
    main, *others = found.items()
    return Inputs(
        workdir="DIR" if workdir.is_absolute() else str(workdir),
        results=main[1].results,
        config=_shown(load_json(workdir / "config.json", forms.CONFIG, TRAIN)) or None,
        metrics=_shown(jsonl.read(workdir / "metrics.jsonl", forms.METRICS)),
        per_example=main[1].per_example,
        samples=_shown(load_arrays(workdir / "evaluation" / "samples.npz", forms.SAMPLES)) or None,
        embeddings=_shown(load_arrays(workdir / "evaluation" / "embeddings.npz", forms.EMBEDDINGS)) or None,
        others={tag: other.results for tag, other in others},
        union=union.stored(workdir / "evaluation", found),
        extra=_shown(load_json(workdir / "extra.json", forms.EXTRA, TRAIN)) or None,
    )


def evaluations(workdir: str | Path) -> dict[str, Evaluation]:
    """The evaluations of a work directory: "" is evaluation/ itself, <tag> is evaluation/<tag>/.

    A tag that has not come to its end is left out. Raises ValueError, in one line, if evaluation/ itself has not.
    """
    base = Path(workdir) / "evaluation"
    every = sorted(base.glob("*/results.json"))
    finished = [path.parent for path in every if "checks" in load_json(path, forms.RESULTS)]
    return {"": evaluation(base)} | {directory.name: evaluation(directory) for directory in finished}


def evaluation(directory: Path) -> Evaluation:
    """The files of one evaluation directory, with names as `spec.visible` shows them. Raises ValueError, in one line,
    unless its results are complete and agree with its records.
    """
    path = directory / "results.json"
    found = load_json(path)
    if not found:
        raise ValueError(f"{path} does not exist: evaluate first (python -m clead_jax.evaluate --workdir=DIR)")
    if found.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {found.get('schema')!r}; this report reads {SCHEMA}")
    if missing := [key for key in REQUIRED if key not in found]:
        raise ValueError(f"{path} lacks {', '.join(missing)}: the evaluation has not finished, run it again")
    load_json(path, forms.RESULTS)
    per_example = load_arrays(directory / "per_example.npz", forms.PER_EXAMPLE)
    for name, what in contradictions(found, per_example or None):
        raise ValueError(f"{path} contradicts {f'the record {name!r}' if name else 'itself'} ({what}); evaluate again")
    found, per_example = _shown(found), _shown(per_example)
    for label, cascade in found.get("protocols", {}).get("autoattack", {}).items():
        if not cascade.get("complete", True) and "autoattack" in cascade["accuracy"]:
            share, count = _upper_bound(label, found, per_example), found["dataset"]["num_examples"]
            if share < cascade["accuracy"]["autoattack"]:
                cascade["accuracy"]["autoattack"] = share
                cascade.setdefault("interval95", {})["autoattack"] = interval95(share * count, count)
    return Evaluation(found, per_example or None)


def _shown(value: Any) -> Any:
    """With every text, names too, on one line that can be written anywhere."""
    match value:
        case str():
            return spec.visible(value)
        case dict():
            return {spec.visible(name): _shown(inner) for name, inner in value.items()}
        case list():
            return [_shown(inner) for inner in value]
    return value


def stopped(results: dict[str, Any]) -> bool:
    """Whether a budget stopped an attack, so that the same command would go on with it."""
    cascades = results.get("protocols", {}).get("autoattack", {}).values()
    stopped_alone = any(model.get("incomplete") for model in results["models"].values())
    return stopped_alone or not all(cascade.get("complete", True) for cascade in cascades)


def _upper_bound(label: str, results: dict[str, Any], per_example: Arrays) -> float:
    """What a stopped AutoAttack proves of a model: an image that any attack in the results broke is broken."""
    records = {name: hits for name, hits in per_example.items() if name.startswith(f"{label}/")}
    if f"{label}/autoattack" in records:
        return float(np.logical_and.reduce(list(records.values())).mean())
    measured = [results["models"].get(label, {})] + [by.get(label, {}) for by in results["protocols"].values()]
    return min(share for entry in measured for share in entry.get("accuracy", {}).values())
