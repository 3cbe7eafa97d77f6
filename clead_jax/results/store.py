"""One evaluation directory being filled: its numbers, its records per example, and what its pictures are made of.

What is in it and still true (same weights, same attack, same images) stays; each finished attack is written at once.
Of any two files the one that vouches for the other is written last.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from clead_jax import data
from clead_jax.core import sharding
from clead_jax.core.types import PyTree
from clead_jax.evaluation.verify import NamedAttack, Outcome, pixels
from clead_jax.experiment.context import Run
from clead_jax.results import files as store
from clead_jax.results.intervals import interval95
from clead_jax.core.progress import seldom

SHOWN, EMBEDDED = 8, 512  # images in the report's grid, and points in its projection
COMPARED = ("baseline", "defended")


class Model(NamedTuple):
    """A saved model under the name it has in the results."""

    label: str
    variables: PyTree
    identity: dict[str, Any]  # stage, step, fingerprint of the weights


class Session:
    """The files of `directory`, in memory. `fresh` begins with none of what is there."""

    def __init__(self, run: Run, directory: Path, header: dict[str, Any], examples: data.Examples, fresh: bool):
        self.run, self.directory, self.examples = run, directory, examples
        load = (lambda name: {}) if fresh else (lambda name: store.load_arrays(directory / name))
        stored = {} if fresh else store.load_json(directory / "results.json")
        self.results: dict[str, Any] = {"schema": 1, **header, "models": {}, "attacks": {}} | stored
        self.records, self.samples, self.embeddings = map(load, ("per_example.npz", "samples.npz", "embeddings.npz"))
        self.records |= {"index": examples.index, "label": examples.labels}
        first = pixels(examples.images[:SHOWN])
        self.samples |= {"index": examples.index[:SHOWN], "label": examples.labels[:SHOWN], "clean": first}
        if fresh and sharding.is_main():
            for progress in directory.glob("autoattack-*.npz"):
                progress.unlink()

    # --- what is known ------------------------------------------------------------------------------------------------

    def forget_if_changed(self, model: Model) -> None:
        """Drops what was measured of other weights under the same name, then counts clean accuracy."""
        label = model.label
        if self.results["models"].get(label, {}).get("checkpoint") != model.identity:
            for arrays in (self.records, self.samples, self.embeddings):
                for key in [k for k in arrays if k.split("/")[0] == label]:
                    del arrays[key]
            if sharding.is_main():
                shutil.rmtree(self.directory / "adversarial" / label, ignore_errors=True)
            of_models = (
                self.results.get("curves", {}).get("accuracy", {}),
                *self.results.get("distances", {}).values(),
                *self.results.get("protocols", {}).values(),
            )
            for by_model in of_models:
                by_model.pop(label, None)
            self.results["models"][label] = {"checkpoint": model.identity}
        if f"{label}/clean" not in self.records:
            predicted = self.run.evaluator.predict(model.variables, self.examples.images)
            self.records[f"{label}/clean"] = predicted == self.examples.labels
            self.samples[f"{label}/clean/prediction"] = predicted[:SHOWN]
            self.anew(label)

    def anew(self, label: str) -> None:
        """Something was measured of a model: what was doubted of it before is out of date."""
        self.results.pop("checks", None)
        if self.run.cfg.evaluation.checks:
            self.results["models"][label].pop("checks", None)

    def forget_cascade(self, label: str, attacks: set[str], with_images: bool) -> None:
        """Drops the AutoAttack of a model, and what `attacks` left standing by themselves: that is something else."""
        for name in {*self.cascaded(label), *attacks}:
            self.records.pop(f"{label}/{name}", None)
            self.results["models"][label].get("settings", {}).pop(name, None)
        self.protocol("autoattack").pop(label, None)
        if with_images:
            self._drop_images(f"{label}/autoattack")

    def protocol(self, name: str) -> dict[str, Any]:
        """results.json's protocols.<name>: {model: what was found}."""
        return self.results.setdefault("protocols", {}).setdefault(name, {})

    def cascaded(self, label: str) -> list[str]:
        """Names of the records of a model that belong to its AutoAttack, in the order they were made."""
        found = self.results.get("protocols", {}).get("autoattack", {}).get(label)
        return [*found["attacks"], "autoattack"] if found else []

    def whitebox(self, label: str) -> dict[str, np.ndarray]:
        """attack -> bool [N] of a model, "clean" among them, without what belongs to other protocols."""
        own = {k.split("/", 1)[1]: v for k, v in self.records.items() if k.startswith(f"{label}/")}
        return {k: v for k, v in own.items() if not k.startswith("paper/") and k not in self.cascaded(label)}

    # --- attacks ------------------------------------------------------------------------------------------------------

    def attack(self, model: Model, attack: NamedAttack, keep_all: bool = False) -> np.ndarray | None:
        """Runs one attack on one model, unless the same was run before, and saves what it left standing.

        Returns the adversarial images if it was run: all [N, H, W, C] with `keep_all`, else the first. Raises
        ValueError if the name is that of a record of AutoAttack, which stands for something else.
        """
        if attack.name in self.cascaded(model.label):
            raise ValueError(
                f"{attack.name} stands in {self.directory} as part of autoattack; "
                f"write {attack.name}(norm={attack.cfg.norm}) to have it by itself beside that"
            )
        name, settings = f"{model.label}/{attack.name}", as_settings(attack)
        measured = self.results["models"][model.label].setdefault("settings", {})
        if name in self.records and measured.get(attack.name) == settings and not self.lacks_images(name):
            say(f"evaluate: {name} is measured already: {self.records[name].mean():.2%}")
            return None
        if self.records.pop(name, None) is not None:  # other settings: no file may hold both, at any moment
            measured.pop(attack.name, None)
            self._drop_images(name)
            self.save()
        keep = len(self.examples.labels) if keep_all or self.run.cfg.evaluation.save_images else EMBEDDED
        outcome = self.attacked(model, attack, self.examples, keep, name)
        self.records[name] = outcome.correct
        self.show(name, outcome.adversarial, outcome.prediction)
        self.keep_images(name, outcome.adversarial)
        if attack.name == "pgd" or f"{model.label}/adversarial" not in self.embeddings:
            self.embeddings[f"{model.label}/adversarial"] = self.features(model, outcome.adversarial[:EMBEDDED])
        measured[attack.name] = self.results["attacks"][attack.name] = settings
        self._forget_other_settings(attack.name)
        self.save()
        return outcome.adversarial

    def show(self, name: str, adversarial: np.ndarray, prediction: np.ndarray) -> None:
        """Keeps the first images for the report's grid."""
        self.samples[name] = adversarial[:SHOWN].copy()  # a view would keep all of them
        self.samples[f"{name}/prediction"] = prediction[:SHOWN]

    def lacks_images(self, name: str) -> bool:
        """Whether all adversarial images of "<model>/<attack>" are wanted and not there."""
        return self.run.cfg.evaluation.save_images and not self._image_file(name).exists()

    def keep_images(self, name: str, adversarial: np.ndarray) -> None:
        """Writes all adversarial images [N, H, W, C] of an attack to a file of their own, if they are wanted."""
        if self.run.cfg.evaluation.save_images and sharding.is_main():
            arrays = {"adversarial": adversarial, "index": self.examples.index, "label": self.examples.labels}
            store.save_arrays(self._image_file(name), arrays)

    def _image_file(self, name: str) -> Path:
        label, attack = name.split("/", 1)
        return self.directory / "adversarial" / label / (attack.replace("/", ":") + ".npz")

    def _forget_other_settings(self, name: str) -> None:
        """One row of the table is one attack: what a model withstood under other settings does not stand in it."""
        for label, model in self.results["models"].items():
            if model.get("settings", {}).get(name, self.results["attacks"][name]) != self.results["attacks"][name]:
                del model["settings"][name]
                self.records.pop(f"{label}/{name}", None)
                self._drop_images(f"{label}/{name}")

    def _drop_images(self, name: str) -> None:
        if sharding.is_main():
            self._image_file(name).unlink(missing_ok=True)

    def attacked(
        self, model: Model, attack: NamedAttack, examples: data.Examples, keep: int = 0, name: str = ""
    ) -> Outcome:
        """The outcome of an attack on some examples; `name` it to hear of its progress."""
        self.anew(model.label)
        total, due = len(examples.labels), seldom()

        def heard(done: int, share: float) -> None:
            if done == total or due():
                say(f"evaluate: {name}  {done}/{total}  {share:.2%} standing")

        return self.run.evaluator.attack(
            model.variables,
            examples.images,
            examples.labels,
            attack,
            key=jax.random.key(self.run.cfg.seed),
            index=examples.index,
            keep=keep,
            on_batch=heard if name else None,
        )

    def features(self, model: Model, images: np.ndarray) -> np.ndarray:
        """What the network makes of images, before its heads."""
        return sharding.to_host(self.run.features(model.variables, pixels(images)))

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Accuracies from the records, then all files: what a record vouches for is there before the record."""
        models = self.results["models"]
        of = {label: self.whitebox(label) for label in models}
        for label, model in models.items():
            over = _worst_over(label, of)
            model |= accuracies(of[label] | (_worst_case(of[label], over) if over else {}))
            model["worst_case_over"] = over
        if sharding.is_main():
            store.save_arrays(self.directory / "samples.npz", self.samples)
            store.save_arrays(self.directory / "embeddings.npz", self.embeddings)
            store.save_arrays(self.directory / "per_example.npz", self.records)
            store.save_json(self.directory / "results.json", self.results)


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


def _worst_case(records: dict[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    return {"worst_case": np.logical_and.reduce([records[name] for name in names])}


def as_settings(attack: NamedAttack) -> dict[str, Any]:
    """What decides the result of an attack, as plain values."""
    return {"objective": attack.objective.__name__, **dataclasses.asdict(attack.cfg)}


def say(line: str) -> None:
    """Prints a line, once."""
    if sharding.is_main():
        print(line, flush=True)
