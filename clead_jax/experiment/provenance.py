"""Where numbers come from and what they cost: passes before and after, machine, what is unfinished.

A pass is one image through the network and back, be it in an attack or in training: what a run costs is their number,
whatever the machine. An attack of several passes a step counts them all; one that never goes back counts half too much.
"""

from pathlib import Path
from typing import Any

from clead_jax.core import sharding
from clead_jax.experiment import builders
from clead_jax.experiment.context import Run
from clead_jax.results import forms, jsonl
from clead_jax.training import checkpoint


def passes_left(run: Run) -> dict[str, int]:
    """Stage -> passes that are left to it, in the order of the stages; for `evaluate` at most so many."""
    left = {}
    for name, stage in run.stages.items():
        made = max(checkpoint.steps(builders.checkpoint_dir(run.workdir, name)), default=0)
        left[name] = max(0, stage.plan.total_steps - made) * stage.plan.batch_size * stage.passes
        if not made:
            once = sum(max(named.passes(run.network.num_classes)) for named in stage.stored)
            left[name] += once * stage.plan.num_examples
    if "evaluate" in run.asked:
        left["evaluate"] = 2 * run.plan.work(len(run.examples().labels))  # both models; nothing is reused
    return left


def cost_line(left: dict[str, int]) -> str:
    """'cost: baseline 4.5e+06, evaluate at most 2e+05; 4.7e+06 forward+backward passes in all'."""
    parts = (f"{stage} {'at most ' if stage == 'evaluate' else ''}{count:.3g}" for stage, count in left.items())
    return f"cost: {', '.join(parts)}; {sum(left.values()):.3g} forward+backward passes in all"


def training_cost(workdir: str) -> dict[str, dict[str, float]]:
    """Forward+backward passes and seconds of training (not validating) of every stage, added up from metrics.jsonl."""
    cost: dict[str, dict[str, float]] = {}
    for epoch in jsonl.read(Path(workdir) / "metrics.jsonl", forms.METRICS):
        spent = cost.setdefault(epoch["stage"], {"forward_backward_passes": 0, "seconds": 0.0})
        spent["forward_backward_passes"] += epoch.get("passes", 0)
        spent["seconds"] += epoch.get("seconds", 0.0)
    return cost


def environment(run: Run, command: str) -> dict[str, Any]:
    """What the numbers were made on and with; `command` is the one that trained the run."""
    return {"command": command, "config_name": run.name, "seed": run.seed} | sharding.machine()
