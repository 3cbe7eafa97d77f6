"""What the report says about where numbers come from: labels used, training cost, machine."""

import platform
from pathlib import Path
from typing import Any

import jax

from clead_jax import config
from clead_jax.core import spec
from clead_jax.core.registry import LOSSES
from clead_jax.evaluation.checks import verdicts as checks
from clead_jax.experiment.context import Run
from clead_jax.results import jsonl


def trained_on(cfg: Any) -> set[str]:
    """Names of the views or attacks that the defended model was trained on."""
    texts = cfg.supervised.attack if cfg.defended == "supervised" else cfg.views
    return {spec.parse(text)[0] for text in spec.items(texts)}


def label_use(cfg: Any, stage: str) -> list[str]:
    """Where class labels entered a stage's model: training, probe, attacks, initial weights, positives."""
    if stage in ("baseline", "supervised", "joint"):
        return ["training"]
    used = ["probe"] if stage == "probe" else []
    if cfg.pretrain.ascend != "contrastive":
        used.append("attacks")
    if cfg.pretrain.start == "baseline":
        used.append("initial weights")
    loss, own = spec.parse(cfg.pretrain.loss)
    if LOSSES[loss].info.get("uses_labels", own.get("positives", cfg.pretrain.positives) == "class"):
        used.append("positives")
    return used


def unfinished(cfg: Any, models: dict[str, Any]) -> list[dict[str, Any]]:
    """A warning for every model of the results whose training had not come to its end."""
    found = []
    for label, model in models.items():
        saved = model["checkpoint"]
        epoch, epochs = saved["epoch"], cfg[saved["stage"]].epochs
        if saved["which"] == "latest" and epoch < epochs:
            hint = f"epoch {epoch} of {epochs}: this is not the finished model"
            found.append(checks.check(f"trained_to_the_end/{label}", "warn", epoch, hint))
    return found


def training_cost(workdir: str) -> dict[str, dict[str, float]]:
    """Forward+backward passes and seconds of training (not validating) of every stage, added up from metrics.jsonl."""
    cost: dict[str, dict[str, float]] = {}
    for epoch in jsonl.read(Path(workdir) / "metrics.jsonl"):
        spent = cost.setdefault(epoch["stage"], {"forward_backward_passes": 0, "seconds": 0.0})
        spent["forward_backward_passes"] += epoch["passes"]
        spent["seconds"] += epoch["seconds"]
    return cost


def environment(run: Run) -> dict[str, Any]:
    """What the numbers were made on and with."""
    device = jax.devices()[0]
    return {
        "command": config.saved_command(run.workdir),
        "config_name": run.name,
        "seed": run.cfg.seed,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }
