"""Measures saved models: attacks, curve, distances, embeddings -> the files that the report is made of.

    evaluation/results.json      the numbers (schema in the README)
    evaluation/per_example.npz   bool [N] per model and attack, so that any two runs can be compared image by image
    evaluation/samples.npz       the first images and what the attacks made of them
    evaluation/embeddings.npz    features of clean and attacked images

What is there already and still true (same weights, same attack, same images) is not measured again; each finished
attack is written at once. Another threat model, split or set of images goes to `evaluation/<tag>/`.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from clead_jax import arsenal, build, checkpoint, data, parallel, provenance, values
from clead_jax.evaluation import checks, store
from clead_jax.evaluation.intervals import interval95
from clead_jax.evaluation.robust import NamedAttack, Outcome
from clead_jax.run import Run
from clead_jax.types import PyTree

SHOWN, EMBEDDED = 8, 512  # images in the report's grid, and points in its projection


class Model(NamedTuple):
    """A saved model under the name it has in the results."""

    label: str
    variables: PyTree
    identity: dict[str, Any]  # stage, step, fingerprint of the weights


def measure(run: Run, stages: dict[str, str] | None = None, fresh: bool = False) -> Path:
    """Evaluates models as `cfg.evaluation` says and returns the directory of the results.

    `stages` maps names in the results to stages, by default baseline and defended. Raises ValueError if none has a
    checkpoint.
    """
    wanted = stages or {"baseline": "baseline", "defended": run.cfg.defended}
    models = [m for label, stage in wanted.items() if (m := _model(run, label, stage))]
    if not models:
        raise ValueError(f"{run.workdir} has no checkpoint of {' or '.join(wanted.values())}: train first")
    examples = _examples(run)
    header = _header(run, examples)
    directory = _directory(Path(run.workdir) / "evaluation", header, examples.index, fresh)
    session = _Session(run, directory, header, examples, fresh)
    for model in models:
        session.forget_if_changed(model)
        for text in values.items(run.cfg.evaluation.attacks):
            session.attack(model, arsenal.evaluation_attack(run.cfg, text))
        session.curve(model)
        session.distances(model)
        session.embed(model)
    session.finish()
    return directory


def _model(run: Run, label: str, stage: str) -> Model | None:
    directory = build.checkpoint_dir(run.workdir, stage)
    if not checkpoint.steps(directory):
        _say(f"evaluate: no checkpoint of stage {stage}, so no column {label!r}")
        return None
    variables, meta = checkpoint.restore_model(directory, run.cfg.evaluation.which)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(variables):
        digest.update(np.asarray(leaf).tobytes())
    identity = {"stage": stage, "epoch": meta["epoch"], "fingerprint": digest.hexdigest()[:16]}
    return Model(label, parallel.put(variables, parallel.replicated(run.mesh)), identity)


def _examples(run: Run) -> data.Examples:
    wanted, split = run.cfg.evaluation.num_examples, getattr(run.splits, run.cfg.evaluation.split)
    return data.subset(split, wanted) if 0 < wanted < len(split.labels) else split


def _header(run: Run, examples: data.Examples) -> dict[str, Any]:
    own = run.cfg.evaluation
    return {
        "dataset": {
            "name": run.dataset.name,
            "split": own.split,
            "num_examples": len(examples.labels),
            "num_classes": run.dataset.num_classes,
            "class_names": list(run.dataset.class_names),
        },
        "threat_model": {"norm": own.norm, "eps": values.number(own.eps)},
    }


def _directory(base: Path, header: dict[str, Any], index: np.ndarray, fresh: bool) -> Path:
    """`base`, unless it holds results of another threat model, split or set of examples; if `fresh`, damage is none."""
    try:
        found = store.load_json(base / "results.json")
        stored = store.load_arrays(base / "per_example.npz").get("index", index)
    except ValueError:
        if not fresh:
            raise
        return base
    if not found or (all(found[k] == header[k] for k in header) and np.array_equal(stored, index)):
        return base
    threat, dataset = header["threat_model"], header["dataset"]
    return base / f"{threat['norm']}-{threat['eps']:.6g}-{dataset['split']}-{dataset['num_examples']}"


class _Session:
    """One evaluation directory being filled. What is in it and still true stays."""

    def __init__(self, run: Run, directory: Path, header: dict[str, Any], examples: data.Examples, fresh: bool):
        self._run, self._directory, self._header, self._examples = run, directory, header, examples
        load = (lambda name: {}) if fresh else (lambda name: store.load_arrays(directory / name))
        self._results = {} if fresh else store.load_json(directory / "results.json")
        self._records, self._samples = load("per_example.npz"), load("samples.npz")
        self._embeddings = load("embeddings.npz")
        self._results = {"schema": 1, **header, "models": {}, "attacks": {}} | self._results
        self._records |= {"index": examples.index, "label": examples.labels}
        first = examples.images[:SHOWN].astype(np.float32) / 255
        self._samples |= {"index": examples.index[:SHOWN], "label": examples.labels[:SHOWN], "clean": first}

    def forget_if_changed(self, model: Model) -> None:
        """Drops what was measured of other weights under the same name, then counts clean accuracy."""
        label = model.label
        if self._results["models"].get(label, {}).get("checkpoint") != model.identity:
            for arrays in (self._records, self._samples, self._embeddings):
                for key in [k for k in arrays if k.split("/")[0] == label]:
                    del arrays[key]
            curves, distances = self._results.get("curves", {}), self._results.get("distances", {})
            for by_model in (curves.get("accuracy", {}), *distances.values()):
                by_model.pop(label, None)
            self._results["models"][label] = {"checkpoint": model.identity}
        if f"{label}/clean" not in self._records:
            predicted = self._run.evaluator.predict(model.variables, self._examples.images)
            self._records[f"{label}/clean"] = predicted == self._examples.labels
            self._samples[f"{label}/clean/prediction"] = predicted[:SHOWN]

    def attack(self, model: Model, attack: NamedAttack) -> None:
        """Runs one attack on one model, unless the same was run before, and saves what it left standing."""
        name, settings = f"{model.label}/{attack.name}", _settings(attack)
        measured = self._results["models"][model.label].setdefault("settings", {})
        if name in self._records and measured.get(attack.name) == settings:
            _say(f"evaluate: {name} is measured already: {self._records[name].mean():.2%}")
            return
        if self._records.pop(name, None) is not None:  # other settings: no file may hold both, at any moment
            measured.pop(attack.name, None)
            self._save()
        outcome = self._attacked(model, attack, self._examples, EMBEDDED, name)
        self._records[name] = outcome.correct
        self._samples[name] = outcome.adversarial[:SHOWN]
        self._samples[f"{name}/prediction"] = outcome.prediction[:SHOWN]
        if attack.name == "pgd" or f"{model.label}/adversarial" not in self._embeddings:
            self._embeddings[f"{model.label}/adversarial"] = self._features(model, outcome.adversarial)
        measured[attack.name] = self._results["attacks"][attack.name] = settings
        self._forget_other_settings(attack.name)
        self._save()

    def _forget_other_settings(self, name: str) -> None:
        """One row of the table is one attack: what a model withstood under other settings does not stand in it."""
        for label, model in self._results["models"].items():
            if model.get("settings", {}).get(name, self._results["attacks"][name]) != self._results["attacks"][name]:
                del model["settings"][name]
                self._records.pop(f"{label}/{name}", None)

    def _attacked(
        self, model: Model, attack: NamedAttack, examples: data.Examples, keep: int = 0, name: str = ""
    ) -> Outcome:
        heard = (
            (lambda done, share: _say(f"evaluate: {name}  {done}/{len(examples.labels)}  {share:.2%} standing"))
            if name
            else None
        )
        return self._run.evaluator.attack(
            model.variables,
            examples.images,
            examples.labels,
            attack,
            key=jax.random.key(self._run.cfg.seed),
            index=examples.index,
            keep=keep,
            on_batch=heard,
        )

    def curve(self, model: Model) -> None:
        """Robust accuracy over eps, PGD with the step size scaled along."""
        own = self._run.cfg.evaluation
        radii = [values.number(e) for e in values.items(own.curve)]
        if not radii:
            return
        attack = arsenal.evaluation_attack(self._run.cfg, "pgd")
        few = self._examples
        if own.curve_examples < len(few.labels):
            few = data.subset(few, own.curve_examples)
        plan = {"attack": "pgd", "settings": _settings(attack), "eps": radii, "num_examples": len(few.labels)}
        found = self._results.get("curves", {})
        accuracy = found.get("accuracy", {}) if {k: found.get(k) for k in plan} == plan else {}
        if model.label not in accuracy:
            accuracy[model.label] = [
                float(self._attacked(model, at_radius(attack, eps), few).correct.mean()) for eps in radii
            ]
            _say(f"evaluate: {model.label} over eps  " + "  ".join(f"{a:.1%}" for a in accuracy[model.label]))
        self._results["curves"] = plan | {"accuracy": accuracy}
        self._save()

    def distances(self, model: Model) -> None:
        """How far the nearest error is, for attacks that look for it (0 where the clean image is wrong)."""
        for text in values.items(self._run.cfg.evaluation.distances):
            attack = arsenal.distance_attack(self._run.cfg, text)
            few = data.subset(
                self._examples, min(self._run.cfg.evaluation.distance_examples, len(self._examples.labels))
            )
            of_attack = self._results.setdefault("distances", {}).setdefault(attack.name, {})
            if model.label in of_attack:
                continue
            outcome = self._attacked(model, attack, few, name=f"{model.label}/{attack.name}")
            found = outcome.prediction != few.labels
            of_attack[model.label] = {
                "norm": attack.cfg.norm,
                "num_examples": len(few.labels),
                "success": float(found.mean()),
                "median": float(np.median(outcome.distance[found])) if found.any() else None,
                "mean": float(outcome.distance[found].mean()) if found.any() else None,
            }
            self._save()

    def embed(self, model: Model) -> None:
        """Features of clean images; `attack` adds those of the images that PGD, or else the first attack, made."""
        few = self._examples.images[:EMBEDDED].astype(np.float32) / 255
        self._embeddings["label"] = self._examples.labels[: len(few)]
        if model.label not in self._embeddings:
            self._embeddings[model.label] = self._features(model, few)

    def _features(self, model: Model, images: np.ndarray) -> np.ndarray:
        network = self._run.network
        features = jax.jit(lambda v, x: network.apply(v, x, False, method=network.features))
        return parallel.to_host(features(model.variables, images))

    def _save(self) -> None:
        """Accuracies from the records, then all files: what a record vouches for is there before the record."""
        models = self._results["models"]
        of = {m: {k.split("/", 1)[1]: v for k, v in self._records.items() if k.startswith(f"{m}/")} for m in models}
        shared = set.intersection(*(set(hits) for hits in of.values() if hits)) if models else set()
        for label, model in models.items():
            hits = of[label]
            if shared & hits.keys():  # the worst of other attacks would be no comparison
                hits["worst_case"] = np.logical_and.reduce([hits[name] for name in shared & hits.keys()])
            model["accuracy"] = {name: float(h.mean()) for name, h in hits.items()}
            model["interval95"] = {name: interval95(h.sum(), len(h)) for name, h in hits.items()}
        if parallel.is_main():
            store.save_arrays(self._directory / "samples.npz", self._samples)
            store.save_arrays(self._directory / "embeddings.npz", self._embeddings)
            store.save_arrays(self._directory / "per_example.npz", self._records)
            store.save_json(self._directory / "results.json", self._results)

    def finish(self) -> None:
        """Adds what concerns the whole: seen and unseen attacks, labels used, cost, checks, environment."""
        cfg, records = self._run.cfg, self._records
        trained_on = {values.spec(t)[0] for t in values.items(cfg.views)}
        if cfg.defended == "supervised":
            trained_on = {values.spec(t)[0] for t in values.items(cfg.supervised.attack)}
        names = list(self._results["attacks"])
        self._results |= {
            "seen_attacks": [n for n in names if values.spec(n)[0] in trained_on],
            "unseen_attacks": [n for n in names if values.spec(n)[0] not in trained_on],
            "label_use": {
                m: provenance.label_use(cfg, v["checkpoint"]["stage"]) for m, v in self._results["models"].items()
            },
            "training_cost": provenance.training_cost(self._run.workdir),
            "checks": [
                checks.sample_size(len(self._examples.labels)),
                *(checks.iterative_weaker_than_one_step(records, m) for m in self._results["models"]),
                *provenance.unfinished(cfg, self._results["models"]),
                checks.undefended_falls(records, "baseline", self._run.dataset.num_classes),
            ],
            "environment": provenance.environment(self._run),
        }
        self._save()


def at_radius(attack: NamedAttack, eps: float) -> NamedAttack:
    """The same attack in another ball, its step size scaled along."""
    relative = attack.cfg.step_size / attack.cfg.eps if attack.cfg.eps else 0.0
    return attack._replace(cfg=dataclasses.replace(attack.cfg, eps=eps, step_size=eps * relative), radius=eps)


def _settings(attack: NamedAttack) -> dict[str, Any]:
    return {"objective": attack.objective.__name__, **dataclasses.asdict(attack.cfg)}


def _say(line: str) -> None:
    if parallel.is_main():
        print(line, flush=True)
