"""The union of threat models: an image counts only if it withstands the attacks in every norm.

Each threat model has an evaluation of its own, with results and records. The union is made of these records:

    evaluation/union.json   which evaluations they are; the accuracy of every model in each norm and in all of them
    evaluation/union.npz    "<model>/<norm>", "<model>/union": bool [N]
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clead_jax.results import files
from clead_jax.results.forms import Arrays
from clead_jax.results.store import accuracies

FILE, UNION = "union.json", "union"
_FORM = {"of": [str]}
Evaluations = Mapping[str, tuple[dict[str, Any], Arrays | None]]
"""Folder in evaluation/, "" for that itself -> results.json and per_example.npz, as `read.evaluations` gives them."""


def in_all(by_norm: Mapping[str, Iterable[np.ndarray]]) -> Arrays:
    """For every norm, and for "union", which images are right in all its records, bool [N]."""
    found = {norm: np.logical_and.reduce(list(hits)) for norm, hits in by_norm.items()}
    return found | {UNION: np.logical_and.reduce(list(found.values()))}


def write(base: Path, evaluations: Evaluations, of: Sequence[str]) -> None:
    """Writes the union of the evaluations named in `of` into the folder evaluation/."""
    found, arrays = _union(evaluations, of)
    files.save_arrays(base / "union.npz", arrays)
    files.save_json(base / FILE, found)


def stored(base: Path, evaluations: Evaluations) -> dict[str, Any] | None:
    """The union that was written, of the records as they are now: {"of", "threat_models", "models"}; None without one.

    If one of its evaluations is not there, or not finished, the union has no models.
    """
    of = files.load_json(base / FILE, _FORM).get("of", [])
    if not {*of} <= evaluations.keys():
        return {"of": of, "threat_models": [], "models": {}}
    return _union(evaluations, of)[0] if of else None


def _union(evaluations: Evaluations, of: Sequence[str]) -> tuple[dict[str, Any], Arrays]:
    chosen = {evaluations[name][0]["threat_model"]["norm"]: evaluations[name] for name in of}
    (results, first), *others = chosen.values()
    if first is None or any(o is None or not np.array_equal(o["index"], first["index"]) for _, o in others):
        raise ValueError(
            f"no union of {', '.join(name or 'evaluation' for name in of)}: they have no records, or others"
        )
    models, arrays = dict[str, Any](), Arrays()
    for label, model in results["models"].items():
        same = all(r["models"].get(label, {}).get("checkpoint") == model["checkpoint"] for r, _ in others)
        if not same or any(f"{label}/clean" not in (records or {}) for _, records in chosen.values()):
            continue  # another model by now, or one without records
        own = in_all({norm: _records(label, records or {}) for norm, (_, records) in chosen.items()})
        stopped = [norm for norm, (found, _) in chosen.items() if _stopped(label, found)]
        bounds = {"incomplete": [*stopped, UNION]} if stopped else {}
        models[label] = accuracies({"clean": first[f"{label}/clean"], **own}) | bounds
        arrays |= {f"{label}/{norm}": hits for norm, hits in own.items()}
    threats = [found["threat_model"] for found, _ in chosen.values()]
    return {"of": list(of), "threat_models": threats, "models": models}, arrays


def _records(label: str, records: Arrays) -> list[np.ndarray]:
    """All records of a model: what any attack in the ball has broken is broken."""
    return [hits for name, hits in records.items() if name.startswith(f"{label}/")]


def _stopped(label: str, results: dict[str, Any]) -> bool:
    """Whether a budget stopped an attack on a model, so that its accuracy is an upper bound."""
    suite = results.get("protocols", {}).get("autoattack", {}).get(label, {})
    return bool(results["models"][label].get("incomplete")) or not suite.get("complete", True)
