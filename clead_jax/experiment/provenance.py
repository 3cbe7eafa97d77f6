"""Where numbers come from and what they cost: passes before and after, machine, what is unfinished.

A pass is one image through the network and back, be it in an attack or in training: what a run costs is their number,
whatever the machine. An attack of several passes a step counts them all; one that never goes back counts half too much.
"""

import platform
from pathlib import Path
from typing import Any

import jax

from clead_jax.attacks import autoattack
from clead_jax.core import spec
from clead_jax.experiment import builders
from clead_jax.experiment.context import Run
from clead_jax.results import files
from clead_jax.training import checkpoint


def passes_left(run: Run) -> dict[str, int]:
    """Stage -> passes that are left to it, in the order of the stages; for `evaluate` at most so many."""
    left = {}
    for name, stage in run.stages.items():
        made = max(checkpoint.steps(builders.checkpoint_dir(run.workdir, name)), default=0)
        left[name] = max(0, stage.plan.total_steps - made) * stage.plan.batch_size * stage.passes
    return left | ({"evaluate": _evaluation(run)} if "evaluate" in spec.items(run.cfg.stages) else {})


def cost_line(left: dict[str, int]) -> str:
    """'cost: baseline 4.5e+06, evaluate at most 2e+05; 4.7e+06 forward+backward passes in all'."""
    parts = (f"{stage} {'at most ' if stage == 'evaluate' else ''}{count:.3g}" for stage, count in left.items())
    return f"cost: {', '.join(parts)}; {sum(left.values()):.3g} forward+backward passes in all"


def _evaluation(run: Run) -> int:
    """Both models under every attack, every radius of the curve and every search for a distance; nothing reused."""
    own, classes = run.cfg.evaluation, run.dataset.num_classes
    images = own.num_examples or len(getattr(run.splits, own.split).labels)
    texts, _, version = builders.asked_for(run.cfg)
    attacks = [builders.evaluation_attack(run.cfg, text) for text in texts]
    if version:
        attacks += autoattack.autoattack(version, own.norm, own.eps, classes)[0]
    found = images * sum(max(attack.passes(classes)) for attack in attacks)
    radii = len(spec.items(own.curve))
    if radii and texts:
        found += radii * min(own.curve_examples, images) * max(builders.curve_attack(run.cfg).passes(classes))
    nearest = [builders.distance_attack(run.cfg, text) for text in spec.items(own.distances)]
    found += min(own.distance_examples, images) * sum(max(attack.passes(classes)) for attack in nearest)
    return 2 * found


def training_cost(workdir: str) -> dict[str, dict[str, float]]:
    """Forward+backward passes and seconds of training (not validating) of every stage, added up from metrics.jsonl."""
    cost: dict[str, dict[str, float]] = {}
    for epoch in files.read_lines(Path(workdir) / "metrics.jsonl"):
        spent = cost.setdefault(epoch["stage"], {"forward_backward_passes": 0, "seconds": 0.0})
        spent["forward_backward_passes"] += epoch["passes"]
        spent["seconds"] += epoch["seconds"]
    return cost


def environment(run: Run, command: str) -> dict[str, Any]:
    """What the numbers were made on and with; `command` is the one that trained the run."""
    device = jax.devices()[0]
    return {
        "command": command,
        "config_name": run.name,
        "seed": run.seed,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }
