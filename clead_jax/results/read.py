"""Reads what a run left in its work directory. Only evaluation/results.json must exist; the rest may be missing.

A missing file is None (or no lines): the report says that it was not there. A file that is there and cannot be read
is an error that names it: a report never hides a broken record.
"""

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clead_jax.results import jsonl

SCHEMA = 1
REQUIRED = ("dataset", "threat_model", "models", "seen_attacks", "unseen_attacks", "checks", "environment")


class Inputs(NamedTuple):
    """The files of one work directory as plain values. Layouts: README, section "In the work directory"."""

    workdir: str  # as it was typed, for commands to repeat; DIR in place of an absolute path
    results: dict[str, Any]
    config: dict[str, Any] | None
    metrics: list[dict[str, Any]]  # one per line, in the order written
    per_example: dict[str, np.ndarray] | None  # "<model>/<attack>" bool [N]
    samples: dict[str, np.ndarray] | None  # "clean", "<model>/<attack>" float [n, H, W, C]
    embeddings: dict[str, np.ndarray] | None  # "<model>", "<model>/adversarial" float [m, F]
    others: dict[str, dict[str, Any]]  # tag -> results of evaluation/<tag>/: another threat model, split or subset


def read(workdir: str | Path) -> Inputs:
    """Reads a work directory. Raises ValueError, in one line, for missing results or an unreadable file."""
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise ValueError(f"work directory {workdir} does not exist")
    evaluation = workdir / "evaluation"
    return Inputs(
        workdir="DIR" if workdir.is_absolute() else str(workdir),
        results=results(evaluation),
        config=_json(workdir / "config.json"),
        metrics=jsonl.read(workdir / "metrics.jsonl"),
        per_example=_arrays(evaluation / "per_example.npz"),
        samples=_arrays(evaluation / "samples.npz"),
        embeddings=_arrays(evaluation / "embeddings.npz"),
        others={path.parent.name: results(path.parent) for path in _finished(evaluation)},
    )


def _finished(evaluation: Path) -> list[Path]:
    """The side evaluations that have come to their end: one that was stopped is no reason to show no report."""
    return [path for path in sorted(evaluation.glob("*/results.json")) if "checks" in (_json(path) or {})]


def results(directory: Path) -> dict[str, Any]:
    """The results.json of an evaluation directory. Raises ValueError, in one line, unless it is complete."""
    path = directory / "results.json"
    found = _json(path)
    if found is None:
        raise ValueError(f"{path} does not exist: evaluate first (python -m clead_jax.evaluate --workdir=DIR)")
    if found.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {found.get('schema')!r}; this report reads {SCHEMA}")
    if missing := [key for key in REQUIRED if key not in found]:
        raise ValueError(f"{path} lacks {', '.join(missing)}: the evaluation has not finished, run it again")
    return found


def _json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object")
    return value


def _arrays(path: Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable npz file: {error}") from error
