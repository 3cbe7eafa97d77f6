"""The results of one evaluation: its numbers, its records per example, and what its pictures are made of.

    results.json      the numbers (schema in the README)
    per_example.npz   bool [N] per model and attack, so that any two runs can be compared image by image
    samples.npz       the first images and what the picture attack made of them
    embeddings.npz    features of clean and attacked images
    adversarial/      all adversarial images, where asked for

A measurement is known by its name ("defended/pgd") and by what it depends on (weights, settings); what is there and
still true is not measured again. Without a directory the same is kept in memory. Of any two files the one that vouches
for the other is written last.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from clead_jax.core import spec
from clead_jax.core.progress import log
from clead_jax.results import files, forms
from clead_jax.results.consistency import contradictions, digest
from clead_jax.results.intervals import interval95

SCHEMA = 1
COMPARED = ("baseline", "defended")


class Store:
    """The files of `directory`, in memory. `fresh` begins with none of what is there; only one process `writes`."""

    def __init__(
        self, header: dict[str, Any], index: np.ndarray, labels: np.ndarray, directory: Path | None = None, *,
        fresh: bool = False, writes: bool = True, progress_path: Path | None = None,
    ):  # fmt: skip
        self.directory, self.writes = directory, writes
        self.passes: dict[str, dict[str, dict[str, np.ndarray]]] = {}  # model -> attack -> forward, backward: int [N]
        self.images: dict[str, np.ndarray] = {}  # adversarial images, where there is no directory
        self._progress_path = progress_path
        stored, arrays = read_results(directory) if directory and not fresh else ({}, [{}, {}, {}])
        self.results: dict[str, Any] = {"schema": SCHEMA, **header, "models": {}, "attacks": {}} | stored
        self.records, self.samples, self.embeddings = arrays
        self.results.setdefault("measured", _measured_before(self.results))
        if stored:
            self._forget_contradictions()
        self.records |= {"index": index, "label": labels}
        for progress in directory.glob("progress-*.npz") if directory and fresh and writes else ():
            progress.unlink()

    def holds(self, name: str, depends: Any) -> bool:
        """Whether a measurement is there and was made of the same."""
        return self.results["measured"].get(name) == fingerprint(depends)

    def measured(self, name: str, depends: Any) -> None:
        """Says that a measurement is there."""
        self.results["measured"][name] = fingerprint(depends)

    def model(self, label: str) -> dict[str, Any]:
        """results.json's models.<label>."""
        return self.results["models"].setdefault(label, {})

    def protocol(self, name: str) -> dict[str, Any]:
        """results.json's protocols.<name>: {model: what was found}."""
        return self.results.setdefault("protocols", {}).setdefault(name, {})

    def suite(self, label: str) -> list[str]:
        """Names of the records of a model that belong to its AutoAttack, in the order they were made."""
        found = self.results.get("protocols", {}).get("autoattack", {}).get(label)
        return [*found.get("attacks", ()), "autoattack"] if found else []

    def direct(self, label: str) -> dict[str, np.ndarray]:
        """attack -> bool [N] of a model, "clean" among them, without what belongs to other protocols."""
        own = {k.split("/", 1)[1]: v for k, v in self.records.items() if k.startswith(f"{label}/")}
        return {k: v for k, v in own.items() if not k.startswith("paper/") and k not in self.suite(label)}

    def transferred(self, label: str) -> dict[str, np.ndarray]:
        """attack -> bool [N] of a model, on images that the attack has made of another."""
        prefix = f"{label}/paper/"
        return {k.removeprefix(prefix): v for k, v in self.records.items() if k.startswith(prefix)}

    def begin_model(self, label: str, identity: dict[str, Any]) -> None:
        """Drops what was measured of other weights under the same name."""
        if self.model(label).get("checkpoint") == identity:
            return
        for arrays in (self.records, self.samples, self.embeddings, self.results["measured"]):
            for key in [k for k in arrays if k.split("/")[0] == label]:
                del arrays[key]
        apart = (by_model for kind in ("distances", "protocols") for by_model in self.results.get(kind, {}).values())
        whole = (self.results.get("curves", {}).get("accuracy", {}), self.results.get("corruptions", {}))
        for by_model in (*whole, *apart):
            by_model.pop(label, None)
        if self.writes and self.directory:
            shutil.rmtree(self.directory / "adversarial" / label, ignore_errors=True)
        self.results["models"][label] = {"checkpoint": identity}

    def outdate_checks(self, label: str, asked: bool) -> None:
        """Something was measured of a model: the checks made before are out of date."""
        self.results.pop("checks", None)
        self.results["measured"].pop(f"{label}/checks", None)
        if asked:
            self.model(label).pop("checks", None)

    def drop(self, label: str, attack: str) -> None:
        """Forgets an attack on a model."""
        name, model = f"{label}/{attack}", self.model(label)
        for known in (self.records, self.results["measured"]):
            known.pop(name, None)
        for known in (model.get("settings", {}), model.get("draws", {})):
            known.pop(attack, None)
        model["incomplete"] = [other for other in model.get("incomplete", []) if other != attack]
        if self.writes and (file := self._image_file(name)):
            file.unlink(missing_ok=True)

    def _forget_contradictions(self) -> None:
        """Drops every record that is not what the results were made of, so that it is measured again. A kill between
        the writing of two files leaves such records. Raises ValueError for results that contradict themselves.
        """
        for name, what in list(contradictions(self.results, self.records)):
            if not name:
                raise ValueError(f"{self.directory}/results.json contradicts itself ({what}); evaluate with --fresh")
            log.warning(f"evaluate: the record {spec.visible(name)} is measured again: {what}")
            self.records.pop(name, None)
            for label in (label for label in self.results["models"] if name.startswith(f"{label}/")):
                attack, suite = name.removeprefix(f"{label}/"), self.suite(label)
                paper = [k.removeprefix(f"{label}/") for k in self.records if k.startswith(f"{label}/paper/")]
                alike = {"autoattack": suite} if attack in suite else {"paper": paper} if attack[:6] == "paper/" else {}
                for protocol, attacks in alike.items():
                    self.protocol(protocol).pop(label, None)
                    for other in attacks:
                        self.drop(label, other)
                self.drop(label, attack)
                if not self.model(label)["incomplete"]:
                    del self.model(label)["incomplete"]
        for label, model in self.results["models"].items():
            for name in {f"{label}/{attack}" for attack in model["accuracy"]} - self.records.keys():
                self.results["measured"].pop(name, None)

    def has_images(self, name: str) -> bool:
        """Whether all adversarial images of "<model>/<attack>" are there."""
        file = self._image_file(name)
        return file is not None and file.exists()

    def keep_images(self, name: str, adversarial: np.ndarray) -> None:
        """Writes all adversarial images [N, H, W, C] of an attack to a file of their own."""
        if self.directory is None:
            self.images[name] = adversarial
        elif self.writes and (file := self._image_file(name)):
            arrays = {"adversarial": adversarial, "index": self.records["index"], "label": self.records["label"]}
            files.save_arrays(file, arrays)

    def _image_file(self, name: str) -> Path | None:
        label, attack = name.split("/", 1)
        return self.directory / "adversarial" / label / (attack.replace("/", ":") + ".npz") if self.directory else None

    def progress_file(self, name: str) -> Path | None:
        """Where the progress of "<model>/<attack>" is kept until it is complete."""
        if self.directory is None:
            return self._progress_path if name.endswith("/autoattack") else None
        return self.directory / f"progress-{hashlib.sha256(name.encode()).hexdigest()[:8]}.npz"

    def save(self) -> None:
        """Accuracies from the records, then all files: what a record vouches for is there before the record."""
        direct = {label: self.direct(label) for label in self.results["models"]}
        for label, model in self.results["models"].items():
            over = _worst_over(label, direct)
            worst = {"worst_case": np.logical_and.reduce([direct[label][name] for name in over])} if over else {}
            model |= accuracies(direct[label] | worst)
            model["worst_case_over"] = over
        for label, entry in self.results.get("protocols", {}).get("autoattack", {}).items():
            if not entry.get("complete", True) and f"{label}/autoattack" in self.records and label in direct:
                # An upper bound: what any other attack has broken is broken.
                bound = np.logical_and.reduce([self.records[f"{label}/autoattack"], *direct[label].values()])
                for key, value in accuracies({"autoattack": bound}).items():
                    entry[key] |= value
        self.results["digests"] = {k: digest(v) for k, v in self.records.items() if k not in ("index", "label")}
        if self.writes and self.directory:
            files.save_arrays(self.directory / "samples.npz", self.samples)
            files.save_arrays(self.directory / "embeddings.npz", self.embeddings)
            files.save_arrays(self.directory / "per_example.npz", self.records)
            files.save_json(self.directory / "results.json", self.results)


def read_results(directory: Path) -> tuple[dict[str, Any], list[forms.Arrays]]:
    """results.json, and per_example, samples and embeddings. Raises ValueError, one line, for a damaged file."""
    kinds = {"per_example": forms.PER_EXAMPLE, "samples": forms.SAMPLES, "embeddings": forms.EMBEDDINGS}
    arrays = [files.load_arrays(directory / f"{name}.npz", form) for name, form in kinds.items()]
    return files.load_json(directory / "results.json", forms.RESULTS), arrays


def fingerprint(depends: Any) -> str:
    """16 hexadecimal digits that change with any of the plain values."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()[:16]


def accuracies(records: dict[str, np.ndarray]) -> dict[str, Any]:
    """{"accuracy", "interval95"} of records bool [N]."""
    return {
        "accuracy": {name: float(hits.mean()) for name, hits in records.items()},
        "interval95": {name: list(interval95(hits.sum(), len(hits))) for name, hits in records.items()},
    }


def _worst_over(label: str, of: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """The attacks (and "clean") of a model's worst case: its own, and of the two that the report compares only those
    that both have met, for the worst of other attacks would be no comparison.
    """
    met = [set(of[other]) for other in (COMPARED if label in COMPARED else (label,)) if len(of.get(other, ())) > 1]
    return sorted(set.intersection(set(of[label]), *met))


def _measured_before(results: dict[str, Any]) -> dict[str, str]:
    """What an earlier version has measured, told from where it wrote on what that depended."""
    found = {}
    for label, model in results["models"].items():
        found[f"{label}/clean"] = fingerprint({"model": model.get("checkpoint")})
        for attack, settings in model.get("settings", {}).items():
            found[f"{label}/{attack}"] = fingerprint({"model": model.get("checkpoint"), "settings": settings})
        suite = results.get("protocols", {}).get("autoattack", {}).get(label, {})
        if suite.get("complete"):
            plan = {key: suite.get(key) for key in ("version", "precision", "settings")}
            found[f"{label}/autoattack"] = fingerprint({"model": model.get("checkpoint"), **plan})
    return found


def choose_directory(
    base: Path, header: dict[str, Any], index: np.ndarray, which: str, suite: tuple[str, str] | None, fresh: bool
) -> Path:
    """`base`, unless it holds results of another checkpoint, threat model, split, examples, or another AutoAttack
    (`suite` is its version and precision, if it is asked for); then a folder in it, named by these.
    """

    def fits(directory: Path) -> bool:
        """Whether it is empty, or holds such results. If `fresh`, damage is ignored."""
        try:
            found, (records, *_) = read_results(directory)
            stored = records.get("index", index)
        except ValueError:
            if not fresh:
                raise
            return True
        others = [m for m in found.get("models", {}).values() if m.get("checkpoint", {}).get("which", which) != which]
        suites = found.get("protocols", {}).get("autoattack", {}).values()
        same_suite = suite is None or fresh or all((s.get("version"), s.get("precision")) == suite for s in suites)
        same = all(found.get(k) == header[k] for k in header) and not others and same_suite
        return not found or (same and np.array_equal(stored, index))

    threat, dataset = header["threat_model"], header["dataset"]
    tag = f"{threat['norm']}-{threat['eps']:.6g}-{dataset['split']}-{dataset['num_examples']}"
    tag += "" if which == "latest" else f"-{which}"
    words = [re.sub(r"[^\w=.]+", "_", word)[:80] for word in suite or ()]  # a suite's attacks are no file name
    tag += "".join(f"-{word}" for word in words if word not in ("standard", "float32"))
    last = base / f"{tag}-{hashlib.sha256(index.tobytes()).hexdigest()[:8]}"
    return next(filter(fits, (base, base / tag)), last)
