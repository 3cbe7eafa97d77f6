"""Reads what a run left in its work directory. Only evaluation/results.json must exist; the rest may be missing.

A missing file is None (or no lines): the report says that it was not there. A file that is there and cannot be read
is an error that names it: a report never hides a broken record.
"""

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SCHEMA = 1


class Inputs(NamedTuple):
    """The files of one work directory as plain values. Layouts: README, section "In the work directory"."""

    results: dict[str, Any]
    config: dict[str, Any] | None
    metrics: list[dict[str, Any]]  # one per line, in the order written
    per_example: dict[str, np.ndarray] | None  # "<model>/<attack>" bool [N]
    samples: dict[str, np.ndarray] | None  # "clean", "<model>/<attack>" float [n, H, W, C]
    embeddings: dict[str, np.ndarray] | None  # "<model>", "<model>/adversarial" float [m, F]


def read(workdir: str | Path) -> Inputs:
    """Reads a work directory. Raises ValueError, in one line, for missing results or an unreadable file."""
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise ValueError(f"work directory {workdir} does not exist")
    evaluation = workdir / "evaluation"
    results = _json(evaluation / "results.json")
    if results is None:
        raise ValueError(
            f"{evaluation / 'results.json'} does not exist: run python -m clead_jax.evaluate --workdir={workdir} first"
        )
    if results.get("schema") != SCHEMA:
        raise ValueError(f"{evaluation / 'results.json'} has schema {results.get('schema')!r}; this report reads {SCHEMA}")
    return Inputs(
        results=results,
        config=_json(workdir / "config.json"),
        metrics=_json_lines(workdir / "metrics.jsonl"),
        per_example=_arrays(evaluation / "per_example.npz"),
        samples=_arrays(evaluation / "samples.npz"),
        embeddings=_arrays(evaluation / "embeddings.npz"),
    )


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


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """All lines, less a torn last one: a run may be writing it at this moment, or was killed while it did."""
    lines = path.read_text().splitlines() if path.exists() else []
    parsed = []
    for number, line in enumerate(lines, start=1):
        try:
            parsed.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}, is not valid JSON: {error}") from error
    return parsed


def _arrays(path: Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable npz file: {error}") from error
