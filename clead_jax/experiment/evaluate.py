"""Evaluates saved models as the config says: opens the store of the work directory, measures, adds where from."""

import dataclasses
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from clead_jax import config
from clead_jax.core import numerics, sharding, spec
from clead_jax.core.progress import log
from clead_jax.core.types import Classifier, fingerprint
from clead_jax.evaluation import classifier as classifiers
from clead_jax.evaluation.checks.context import check
from clead_jax.evaluation.measurements import measure
from clead_jax.evaluation.plan import Plan, Subject
from clead_jax.experiment import builders, models, networks, provenance
from clead_jax.experiment.context import Run
from clead_jax.results import files
from clead_jax.results.store import Store, choose_directory
from clead_jax.training import checkpoint


@numerics.defaults()
def evaluate(run: Run, names: str = "", fresh: bool = False) -> Path:
    """Measures models and returns the directory of the results.

    `names` is a comma list of [LABEL=]MODEL (see `models.resolve`), by default the undefended and the defended model.
    What is there and still true is not measured again, unless `fresh`. Raises ValueError if there is no model.
    """
    run.require_labels()
    found = {label: model for label, text in _wanted(run, names) if (model := _model(run, label, text, bool(names)))}
    if not found:
        stages = " or ".join(text for _, text in _wanted(run, names))
        raise ValueError(f"{run.workdir} has no checkpoint of {stages}: train first")
    plan, examples = run.plan, run.examples()
    plan, others = _with_source(run, plan, found)
    header, (which, _) = run.header(examples), run.which
    suite = (plan.suite.version, plan.suite.precision) if plan.suite else None
    base = Path(run.workdir) / "evaluation"
    directory = choose_directory(base, header, examples.index, which, suite, fresh)
    content = fingerprint(examples.images, examples.labels)
    if not fresh and (fresh := _changed(directory, content, examples.labels)):
        said = f"evaluate: images or labels of {run.dataset.name} have changed since they were measured in {directory}"
        log.info(f"{said}: measuring everything again")
        if sharding.is_main():
            shutil.rmtree(directory / "adversarial", ignore_errors=True)
    store = Store(header, examples.index, examples.labels, directory, fresh=fresh, writes=sharding.is_main())
    store.results["data_fingerprint"] = content
    half = plan.suite is not None and plan.suite.precision == "bfloat16"
    subjects = [_subject(run, label, model, half) for label, model in found.items()]
    complete = measure(plan, subjects, examples, store, others=others, clock=sharding.shared_clock())
    _finish(run, found, store)
    if not complete:
        more = "with more passes it" if np.isfinite(plan.budget.passes) else "the same command"
        log.info(f"evaluate: the budget ended before the attacks did; {more} goes on from here")
    return directory


def check_source(run: Run) -> None:
    """Raises ValueError, before anything is trained, for a transfer source elsewhere that is absent or does not fit."""
    if (source := _source_name(run)) and source not in run.epochs:
        _source(run, source)


def _source_name(run: Run) -> str:
    """The transfer source as `models.resolve` has it: a stage by its name, a work directory by its baseline."""
    text = run.plan.transfer_from
    directory, _, stage = text.partition(":")
    if not text or text in run.epochs or "(" in text:
        return text
    here = os.path.abspath(directory) == os.path.abspath(run.workdir)
    return f"{'' if here else f'{directory}:'}{stage or 'baseline'}"


def _source(run: Run, name: str) -> Classifier:
    """The model that transfer images are made on."""
    try:
        return _fitting(run, name, models.resolve(name, run.workdir))
    except ValueError as error:
        raise ValueError(f"evaluation.transfer.source: {error}") from None


def _with_source(run: Run, plan: Plan, found: dict[str, Classifier]) -> tuple[Plan, list[Subject]]:
    """The plan with the source of transfer images by its label, and that source if it is not measured itself."""
    text = _source_name(run)
    if not text or text in found:
        return dataclasses.replace(plan, transfer_from=text), []
    if text == "baseline":
        log.info("evaluate: no transfer attacks, for there is no model 'baseline' to make images on")
        if not run.asks_beyond_transfer:
            raise ValueError(f"protocol paper needs the stage baseline, which {run.workdir} has not trained")
        return dataclasses.replace(plan, transfer_from=""), []
    model, label = _source(run, text), re.sub(r"[^(+,]*/", "", text)
    source = Subject(label, run.compiled(model), model.metadata["checkpoint"])
    return dataclasses.replace(plan, transfer_from=label), [source]


def _changed(directory: Path, content: str, labels: np.ndarray) -> bool:
    """Whether what is there was measured on other images or labels. An earlier version kept the labels alone."""
    results, records = files.load_json(directory / "results.json"), files.load_arrays(directory / "per_example.npz")
    known = results.get("data_fingerprint", content), records.get("label", labels)
    return known[0] != content or not np.array_equal(known[1], labels)


def _wanted(run: Run, names: str) -> list[tuple[str, str]]:
    """(label, model) pairs."""
    if not names:
        return [("baseline", "baseline"), ("defended", run.defended)]
    pairs = [_labelled(text) for text in spec.items(names)]
    labels = [label for label, _ in pairs]
    if wrong := [label for label in labels if not label or "/" in label or labels.count(label) > 1]:
        raise ValueError(f"models: the label {wrong[0]!r} is empty, there twice, or has a '/'; write LABEL=MODEL")
    return pairs


def _labelled(text: str) -> tuple[str, str]:
    """'LABEL=MODEL' -> both; a model without a label goes by its name, without the folders that lead to it."""
    label, equals, model = text.partition("=")
    if not equals or "(" in label:
        return re.sub(r"[^(+,=]*/", "", text), text
    return label.strip(), model.strip()


def _model(run: Run, label: str, text: str, named: bool) -> Classifier | None:
    """A model, or None with a line where the stage of a default column has no checkpoint."""
    if not named and not checkpoint.steps(builders.checkpoint_dir(run.workdir, text)):
        log.info(f"evaluate: no checkpoint of stage {text}, so no column {label!r}")
        return None
    return _fitting(run, text, models.resolve(text, run.workdir, *run.which))


def _fitting(run: Run, text: str, model: Classifier) -> Classifier:
    """The model, which must be one of this run's images and classes."""
    expected = run.dataset.num_classes, run.dataset.image_shape
    if (model.num_classes, model.image_shape) != expected:
        shape = "x".join(map(str, model.image_shape))
        raise ValueError(f"{text} takes images {shape} of {model.num_classes} classes; {run.dataset.name} has others")
    return model


def _subject(run: Run, label: str, model: Classifier, in_bfloat16: bool) -> Subject:
    """`in_bfloat16`: AutoAttack differentiates a copy that computes so."""
    compiled, fields, suite = run.compiled(model), model.metadata.get("network"), None
    if in_bfloat16:
        seen = model.attack_forward or model.forward
        half = networks.classifier(fields | {"dtype": "bfloat16"}).forward if fields else classifiers.in_bfloat16(seen)
        suite = run.compiled(dataclasses.replace(model, attack_forward=half))
    if fields is None:
        return Subject(label, compiled, model.metadata["checkpoint"], suite=suite)
    return Subject(label, compiled, model.metadata["checkpoint"], networks.features(fields), suite)


def _finish(run: Run, found: dict[str, Classifier], store: Store) -> None:
    """Adds what concerns the whole: seen and unseen attacks, labels used, cost, checks, environment."""
    results, trained_on = store.results, run.trained_on
    names = list(results["attacks"])
    for label, model in found.items():
        if kind := model.metadata.get("batch_stats"):
            results["models"][label]["batch_stats"] = kind
    use = results.get("label_use", {}) | {label: model.metadata["label_use"] for label, model in found.items()}
    results |= {
        "seen_attacks": [name for name in names if spec.parse(name)[0] in trained_on],
        "unseen_attacks": [name for name in names if spec.parse(name)[0] not in trained_on],
        "label_use": {label: use.get(label, []) for label in results["models"]},
        "training_cost": provenance.training_cost(run.workdir),
        "environment": provenance.environment(run, config.saved_command(run.workdir)),
    }
    results["checks"] = _unfinished(found)
    for label, model in results["models"].items():
        results["checks"] += [each | {"name": f"{each['name']}/{label}"} for each in model.get("checks", [])]
    store.save()


def _unfinished(found: dict[str, Classifier]) -> list[dict[str, Any]]:
    """A warning for every model whose training had not come to its end."""
    warnings = []
    for label, model in found.items():
        saved, epochs = model.metadata["checkpoint"], model.metadata["epochs"]
        if saved["which"] == "latest" and saved["epoch"] < epochs:
            hint = f"epoch {saved['epoch']} of {epochs}: this is not the finished model"
            warnings.append(check(f"trained_to_the_end/{label}", "warn", saved["epoch"], hint))
    return warnings
