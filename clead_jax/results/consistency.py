"""Whether results.json and the records beside it tell the same."""

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from clead_jax.results.forms import Arrays

CLOSE = 1e-6


def digest(array: np.ndarray) -> str:
    """16 hexadecimal digits that change with any value of an array, with its type and with its shape."""
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()[:16]


def contradictions(results: dict[str, Any], records: Arrays | None) -> Iterator[tuple[str, str]]:
    """(record, what is wrong) for every record that is not what the results were made of; ("", what is wrong) where
    the results contradict themselves. Both have passed `forms`; without `records` only the results are compared.
    """
    models, count = results["models"], results["dataset"]["num_examples"]
    if rows := {len(array) for array in (records or {}).values()} - {count}:
        yield "", f"per_example.npz has {min(rows)} rows for {count} images"
        return
    for name, known in results.get("digests", {}).items():
        if records is not None and (name not in records or digest(records[name]) != known):
            yield name, "it is not the record that the results were made of"
    for label, model in models.items():
        yield from _of_model(label, model, records)
    for label, entry in results.get("protocols", {}).get("autoattack", {}).items():
        yield from _of_suite(label, entry, records or {})
    for label, entry in results.get("protocols", {}).get("paper", {}).items():
        for attack, share in entry["accuracy"].items():
            yield from _compared(f"{label}/paper/{attack}", share, records or {})
    yield from (("", what) for what in _of_results(results))


def _of_results(results: dict[str, Any]) -> Iterator[str]:
    models, protocols = results["models"], results.get("protocols", {}).values()
    curves = {"eps": [], "accuracy": {}} | results.get("curves", {})
    others = (results.get(kind, {}) for kind in ("clusters", "label_use", "corruptions"))
    for by_model in (*protocols, *results.get("distances", {}).values(), *others, curves["accuracy"]):
        if unknown := by_model.keys() - models.keys():
            yield f"it has numbers of {min(unknown)!r}, which is no model"
    if any("attack" not in curves or len(line) != len(curves["eps"]) for line in curves["accuracy"].values()):
        yield "a curve has no attack, or not as many accuracies as radii"
    for entry in (*models.values(), *(entry for by_model in protocols for entry in by_model.values())):
        for attack, (low, high) in entry.get("interval95", {}).items():
            if not low - CLOSE <= entry["accuracy"].get(attack, low) <= high + CLOSE:
                yield f"the accuracy under {attack} is outside its interval"


def _of_model(label: str, model: dict[str, Any], records: Arrays | None) -> Iterator[tuple[str, str]]:
    for attack, found in model.get("draws", {}).items():
        if found["worst"] > found["mean"] + CLOSE:
            yield f"{label}/{attack}", "more images are right in every draw than on average"
    shares, recorded = model["accuracy"], any(name.startswith(f"{label}/") for name in records or {})
    for attack, share in shares.items():
        name = f"{label}/{attack}"
        if share > shares.get("clean", 1.0) + CLOSE:
            yield name, f"its accuracy {share:.6g} is above the clean one, {shares['clean']:.6g}"
        if records is None or not recorded:
            continue
        if attack == "worst_case":
            over = [f"{label}/{other}" for other in model.get("worst_case_over", shares) if other != attack]
            if set(over) <= records.keys() and over:
                worst = np.logical_and.reduce([records[other] for other in over])
                yield from _compared(name, share, {name: worst})
        elif name not in records:
            yield name, "per_example.npz lacks it"
        else:
            yield from _compared(name, share, records)
            clean = records.get(f"{label}/clean")
            if clean is not None and (records[name] & ~clean).any():
                yield name, "it is right where the clean image is wrong"


def _of_suite(label: str, entry: dict[str, Any], records: Arrays) -> Iterator[tuple[str, str]]:
    shares, name = entry["accuracy"], f"{label}/autoattack"
    steps = [shares[attack] for attack in ("clean", *entry.get("attacks", ()), "autoattack") if attack in shares]
    if any(after > before + CLOSE for before, after in itertools.pairwise(steps)):
        yield name, "in AutoAttack an accuracy is above the one before it"
    for attack, share in shares.items() if entry.get("complete", True) else ():
        for _, what in _compared(f"{label}/{attack}", share, records):
            yield name, what


def _compared(name: str, share: float, records: Arrays) -> Iterator[tuple[str, str]]:
    if name in records and abs(records[name].mean() - share) > CLOSE:
        yield name, f"results.json says {share:.6g}, its record {records[name].mean():.6g}"
