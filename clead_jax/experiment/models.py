"""Trained models as `Classifier`s, from checkpoints: one stage of a work directory, or several under a wrapper."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from clead_jax.core.types import Classifier
from clead_jax.experiment import builders, history, networks
from clead_jax.models import wrappers
from clead_jax.training import checkpoint


def load(
    workdir: str, stage: str | None = None, which: int | str = "latest", weights: str = "", plugins: str = ""
) -> Classifier:
    """A trained model: pixels in [0, 1] -> logits. `forward, variables = load(workdir)` unpacks it.

    `stage` is the defended model's by default; "baseline" gives the undefended one. `which` is "latest", "best" or a
    step; `weights` names averaged weights of that checkpoint ("ema", "swa"). `plugins` ("my_module,other") are
    imported first; those that only the run's own config names are not, and a line says which these are. Raises
    ValueError if the work directory has no such checkpoint, naming those it has, and if it is not of its network.
    """
    workdir = os.path.expanduser(workdir)
    past = history.history(workdir, stage or "", plugins)
    stage = past["stage"]
    directory = builders.checkpoint_dir(workdir, stage)
    if not checkpoint.steps(directory):
        there = ", ".join(trained(workdir)) or "none"
        raise ValueError(f"{workdir} has no checkpoint of stage {stage!r}; it has {there}")
    variables, meta = checkpoint.restore_model(directory, which, weights)
    shape = tuple(builders.checked_meta(meta, directory)["image_shape"])
    found = networks.classifier(meta["network"], variables)
    networks.require_fit(found, shape, directory)
    identity = {"stage": stage, "which": str(which), "epoch": meta["epoch"], "fingerprint": found.fingerprint}
    facts = {"network": meta["network"], "checkpoint": identity | ({"weights": weights} if weights else {})}
    return dataclasses.replace(found, image_shape=shape, name=stage, metadata=past | facts)


def trained(workdir: str) -> list[str]:
    """The stages of a work directory that have a checkpoint."""
    root = Path(workdir) / "checkpoints"
    return sorted(p.name for p in root.iterdir() if checkpoint.steps(p)) if root.is_dir() else []


def resolve(text: str, workdir: str, which: str = "latest", weights: str = "") -> Classifier:
    """A model by its name: STAGE, DIR:STAGE (of another work directory), or a wrapper around some of these,
    "ensemble(baseline+probe)" or "noise(probe,std=0.1)". Raises ValueError for what is none of them.
    """
    if wrapper := wrappers.unwrapped(text):
        parts = [resolve(each, workdir, which, weights) for each in wrapper[1]]
        return _described(wrappers.wrap(wrapper[0], *parts), text, which, parts)
    directory, _, stage = text.strip().rpartition(":")
    if not stage:
        raise ValueError(f"{text!r} names no model; write STAGE, DIR:STAGE or ensemble(baseline+probe)")
    return load(directory or workdir, stage, int(which) if which.isdecimal() else which, weights)


def _described(classifier: Classifier, text: str, which: str, parts: list[Classifier]) -> Classifier:
    """A wrapped model with the history of its parts."""
    use: list[str] = sorted({label for part in parts for label in part.metadata["label_use"]})
    identity = {"stage": text, "which": which, "epoch": 0, "fingerprint": classifier.fingerprint}
    seen = {key: value for key, value in classifier.metadata.items() if key == "attacks_see" and value}
    facts: dict[str, Any] = {"stage": text, "label_use": use, "epochs": 0, "checkpoint": identity | seen} | seen
    shape, classes = parts[0].image_shape, parts[0].num_classes
    return dataclasses.replace(classifier, name=text, metadata=facts, image_shape=shape, num_classes=classes)
