"""Measures saved models: protocols, curve, distances, embeddings, doubts -> the files that the report is made of.

    evaluation/results.json      the numbers (schema in the README)
    evaluation/per_example.npz   bool [N] per model and attack, so that any two runs can be compared image by image
    evaluation/samples.npz       the first images and what the attacks made of them
    evaluation/embeddings.npz    features of clean and attacked images
    evaluation/adversarial/      all adversarial images, where asked for

What is there already and still true (same weights, same attack, same images) is not measured again. Another threat
model, split or set of images goes to `evaluation/<tag>/`.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clead_jax import data
from clead_jax.attacks import parse as arsenal
from clead_jax.core import sharding, spec
from clead_jax.evaluation import measurements as protocols
from clead_jax.evaluation.checks.context import Subject
from clead_jax.evaluation.checks.run import examine
from clead_jax.evaluation.features import clusters
from clead_jax.evaluation.verify import NamedAttack, pixels
from clead_jax.experiment import builders as build
from clead_jax.experiment import provenance
from clead_jax.experiment.context import Run
from clead_jax.results import files as store
from clead_jax.results.store import EMBEDDED, Model, Session, as_settings, say
from clead_jax.training import checkpoint

DOUBTED = 128  # examples the checks look at


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
    directory = _directory(Path(run.workdir) / "evaluation", header, examples.index, run.cfg.evaluation.which, fresh)
    session = Session(run, directory, header, examples, fresh)
    for model in models:
        session.forget_if_changed(model)
    texts, paper, version = arsenal.asked_for(run.cfg)
    for text in texts:
        attack = arsenal.evaluation_attack(run.cfg, text)
        made = {m.label: session.attack(m, attack, paper and m.label == protocols.SOURCE) for m in models}
        if paper:
            protocols.paper(session, models, attack, made.get(protocols.SOURCE))
    for model in models:
        if texts:
            curve(session, model)
        distances(session, model)
        embed(session, model)
    complete = [protocols.cascade_of(session, model, version) for model in models if version]
    finish(session, models)
    if not all(complete):
        more = "with more passes it" if "passes" in run.cfg.evaluation.budget else "the same command"
        say(f"evaluate: the budget ended before autoattack did; {more} goes on from here")
    return directory


def _model(run: Run, label: str, stage: str) -> Model | None:
    directory = build.checkpoint_dir(run.workdir, stage)
    if not checkpoint.steps(directory):
        say(f"evaluate: no checkpoint of stage {stage}, so no column {label!r}")
        return None
    which = run.cfg.evaluation.which
    variables, meta = checkpoint.restore_model(directory, int(which) if which.isdecimal() else which)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(variables):
        digest.update(np.asarray(leaf).tobytes())
    identity = {"stage": stage, "which": which, "epoch": meta["epoch"], "fingerprint": digest.hexdigest()[:16]}
    return Model(label, sharding.put(variables, sharding.replicated(run.mesh)), identity)


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
        "threat_model": {"norm": own.norm, "eps": spec.number(own.eps)},
    }


def _directory(base: Path, header: dict[str, Any], index: np.ndarray, which: str, fresh: bool) -> Path:
    """`base`, unless it holds results of another checkpoint, threat model, split or examples; then one so named."""
    threat, dataset = header["threat_model"], header["dataset"]
    tag = f"{threat['norm']}-{threat['eps']:.6g}-{dataset['split']}-{dataset['num_examples']}"
    tag += "" if which == "latest" else f"-{which}"
    for directory in (base, base / tag):
        if _fits(directory, header, index, which, fresh):
            return directory
    return base / f"{tag}-{hashlib.sha256(index.tobytes()).hexdigest()[:8]}"


def _fits(directory: Path, header: dict[str, Any], index: np.ndarray, which: str, fresh: bool) -> bool:
    """Whether results may go to a directory: it is empty, or holds such as these. If `fresh`, damage is none."""
    try:
        found = store.load_json(directory / "results.json")
        stored = store.load_arrays(directory / "per_example.npz").get("index", index)
    except ValueError:
        if not fresh:
            raise
        return True
    others = [m for m in found.get("models", {}).values() if m.get("checkpoint", {}).get("which", which) != which]
    return not found or (all(found[k] == header[k] for k in header) and not others and np.array_equal(stored, index))


# --- beside the protocols ---------------------------------------------------------------------------------------------


def curve(session: Session, model: Model) -> None:
    """Robust accuracy over eps, the attack's step size scaled along."""
    own = session.run.cfg.evaluation
    radii = [spec.number(e) for e in spec.items(own.curve)]
    if not radii:
        return
    attack, few = arsenal.curve_attack(session.run.cfg), _few(session, own.curve_examples)
    plan = {
        "attack": attack.name,
        "settings": as_settings(attack),
        "eps": radii,
        "num_examples": len(few.labels),
    }
    found = session.results.get("curves", {})
    accuracy = found.get("accuracy", {}) if {k: found.get(k) for k in plan} == plan else {}
    if model.label not in accuracy:
        outcomes = [session.attacked(model, at_radius(attack, eps), few) for eps in radii]
        accuracy[model.label] = [float(outcome.correct.mean()) for outcome in outcomes]
        say(f"evaluate: {model.label} over eps  " + "  ".join(f"{a:.1%}" for a in accuracy[model.label]))
    session.results["curves"] = plan | {"accuracy": accuracy}
    session.save()


def at_radius(attack: NamedAttack, eps: float) -> NamedAttack:
    """The same attack in another ball, its step size scaled along."""
    step = attack.cfg.step_size
    if step is not None:
        step = eps * (step / attack.cfg.eps if attack.cfg.eps else 0.0)
    return attack._replace(cfg=dataclasses.replace(attack.cfg, eps=eps, step_size=step), radius=eps)


def distances(session: Session, model: Model) -> None:
    """How far the nearest error is, for attacks that look for it (0 where the clean image is wrong)."""
    own = session.run.cfg.evaluation
    for text in spec.items(own.distances):
        attack, few = arsenal.distance_attack(session.run.cfg, text), _few(session, own.distance_examples)
        plan = {"settings": as_settings(attack), "num_examples": len(few.labels)}
        of_attack = session.results.setdefault("distances", {}).setdefault(attack.name, {})
        before = of_attack.get(model.label, {})
        if {k: before.get(k) for k in plan} == plan:
            continue
        outcome = session.attacked(model, attack, few, name=f"{model.label}/{attack.name}")
        found = outcome.prediction != few.labels
        of_attack[model.label] = plan | {
            "norm": attack.cfg.norm,
            "success": float(found.mean()),
            "median": float(np.median(outcome.distance[found])) if found.any() else None,
            "mean": float(outcome.distance[found].mean()) if found.any() else None,
        }
        session.save()


def embed(session: Session, model: Model) -> None:
    """Features of clean images, those of attacked ones came with the attack; and how well both fall into classes."""
    few = session.examples.images[:EMBEDDED]
    session.embeddings["label"] = session.examples.labels[: len(few)]
    if model.label not in session.embeddings:
        session.embeddings[model.label] = session.features(model, few)
    states = {"clean": model.label, "attacked": f"{model.label}/adversarial"}
    session.results.setdefault("clusters", {})[model.label] = {
        state: clusters(session.embeddings[key], session.embeddings["label"])
        for state, key in states.items()
        if key in session.embeddings
    }


def _few(session: Session, wanted: int) -> data.Examples:
    there = len(session.examples.labels)
    return data.subset(session.examples, wanted) if wanted < there else session.examples


# --- the whole --------------------------------------------------------------------------------------------------------


def finish(session: Session, models: list[Model]) -> None:
    """Adds what concerns the whole: seen and unseen attacks, labels used, cost, checks, environment."""
    cfg, results = session.run.cfg, session.results
    trained_on = provenance.trained_on(cfg)
    names = list(results["attacks"])
    results |= {
        "seen_attacks": [n for n in names if spec.parse(n)[0] in trained_on],
        "unseen_attacks": [n for n in names if spec.parse(n)[0] not in trained_on],
        "label_use": {m: provenance.label_use(cfg, v["checkpoint"]["stage"]) for m, v in results["models"].items()},
        "training_cost": provenance.training_cost(session.run.workdir),
        "environment": provenance.environment(session.run),
    }
    if cfg.evaluation.checks:
        _doubt(session, models)
    doubts = [
        check | {"name": f"{check['name']}/{label}"}
        for label, model in results["models"].items()
        for check in model.get("checks", [])
    ]
    results["checks"] = [*provenance.unfinished(cfg, results["models"]), *doubts]
    session.save()


def _doubt(session: Session, models: list[Model]) -> None:
    """Checks the defended models, where there is none the undefended one, unless that was done after all was measured.

    What was doubted of a model lies with the model: results.json's "checks" are those of all of them.
    """
    source = next((m for m in models if m.label == protocols.SOURCE), None)
    for model in [m for m in models if m is not source] or models:
        entry = session.results["models"][model.label]
        if "checks" not in entry:
            entry["checks"] = examine(_subject(session, model, source if model is not source else None))


def _subject(session: Session, model: Model, twin: Model | None) -> Subject:
    run, few = session.run, _few(session, DOUBTED)
    cfg, eps = run.cfg, spec.number(run.cfg.evaluation.eps)
    step = spec.number(cfg.evaluation.step_size) / eps if eps else 0.0
    say(f"evaluate: doubting {model.label} on {len(few.labels)} images")
    records = {n: session.records.get(f"{model.label}/{n}") for n in session.cascaded(model.label)}
    cascade = {name: record for name, record in records.items() if record is not None}  # a budget may have ended it
    return Subject(
        evaluator=run.evaluator.lenient(build.rounded_up(len(few.labels), run.mesh.size)),
        variables=model.variables,
        images=pixels(few.images),
        labels=few.labels,
        index=few.index,
        num_classes=run.dataset.num_classes,
        norm=cfg.evaluation.norm,
        eps=eps,
        key=jax.random.key(cfg.seed),
        named=lambda text, eps: arsenal.attack_at(text, cfg.evaluation.norm, eps, cfg.evaluation.steps, step),
        records=session.whitebox(model.label) | cascade,
        training_attacks=tuple(sorted(provenance.trained_on(cfg))),
        twin=twin.variables if twin else None,
        published=(run.dataset.name, cfg.model.backbone),
    )
