"""What a run is going to cost, told before it starts: forward+backward passes of every stage still to be run.

A pass is one image through the network and back, be it in an attack or in training: what a run costs is their number,
whatever the machine. An attack of several passes a step counts them all; one that never goes back counts half too much.
"""

from clead_jax import config
from clead_jax.attacks import parse as arsenal
from clead_jax.core import spec
from clead_jax.evaluation.verify import NamedAttack
from clead_jax.experiment import builders as build
from clead_jax.experiment.context import Run
from clead_jax.training import checkpoint


def passes(run: Run) -> dict[str, int]:
    """Stage -> passes that are left to it, in the order of the stages; for `evaluate` at most so many."""
    wanted = spec.items(run.cfg.stages)
    left = {stage: _training(run, stage) for stage in config.TRAINED_STAGES if stage in wanted}
    return left | ({"evaluate": _evaluation(run)} if "evaluate" in wanted else {})


def line(left: dict[str, int]) -> str:
    """'cost: baseline 4.5e+06, evaluate at most 2e+05; 4.7e+06 forward+backward passes in all'."""
    parts = (f"{stage} {'at most ' if stage == 'evaluate' else ''}{count:.3g}" for stage, count in left.items())
    return f"cost: {', '.join(parts)}; {sum(left.values()):.3g} forward+backward passes in all"


def _training(run: Run, name: str) -> int:
    stage = build.stage(run.cfg, name, run.network, len(run.splits.train.labels))
    made = max(checkpoint.steps(build.checkpoint_dir(run.workdir, name)), default=0)
    return max(0, stage.plan.total_steps - made) * stage.plan.batch_size * stage.passes


def _evaluation(run: Run) -> int:
    """Both models under every attack, every radius of the curve and every search for a distance; nothing reused."""
    own = run.cfg.evaluation
    images = own.num_examples or len(getattr(run.splits, own.split).labels)
    texts, _, version = arsenal.asked_for(run.cfg)
    attacks = [arsenal.evaluation_attack(run.cfg, text) for text in texts]
    if version:
        attacks += arsenal.autoattack(version, own.norm, spec.number(own.eps), run.dataset.num_classes)[0]
    found = images * sum(_per_image(run, attack) for attack in attacks)
    radii = len(spec.items(own.curve))
    if radii and texts:
        found += radii * min(own.curve_examples, images) * _per_image(run, arsenal.curve_attack(run.cfg))
    nearest = [arsenal.distance_attack(run.cfg, text) for text in spec.items(own.distances)]
    found += min(own.distance_examples, images) * sum(_per_image(run, attack) for attack in nearest)
    return 2 * found


def _per_image(run: Run, named: NamedAttack) -> int:
    return named.attack.num_steps(named.cfg) * max(named.attack.passes(named.cfg, run.dataset.num_classes))
