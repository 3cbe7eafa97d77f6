"""Evaluate saved models again, with other attacks, radii, steps or images, or under a stricter protocol.

    python -m clead_jax.evaluate --workdir=DIR [--attacks=fgsm,pgd(steps=100,restarts=5),cw] [--eps=4/255] ...
    python -m clead_jax.evaluate --workdir=DIR --attacks=autoattack [--budget=2h] [--save_images] ...

Finished measurements are reused (--fresh discards them). Results of the same threat model, split and images are merged
into evaluation/results.json; others go to evaluation/<tag>/.
"""

from typing import Any

from absl import flags

from clead_jax import config
from clead_jax.config import cli
from clead_jax.core import spec

OVERRIDES = {
    "attacks": "attacks, e.g. fgsm,pgd(steps=100),cw,autoattack",
    "protocol": "some of paper,whitebox,autoattack",
    "version": "of autoattack: standard, plus or rand",
    "precision": "in which autoattack climbs: float32 or bfloat16; float32 judges",
    "budget": "most time (90s, 10m, 2h) or passes per image (2000passes) of autoattack; the same command goes on",
    "norm": "linf, l2 or l1",
    "eps": "radius in [0, 1] units, e.g. 8/255",
    "step_size": "step size of iterative attacks",
    "steps": "steps of iterative attacks",
    "restarts": "random restarts of iterative attacks",
    "split": "test, validation or train",
    "num_examples": "a class-balanced subset of this many images; 0: all",
    "which": "checkpoint: latest, best, or the number of a saved step",
    "batch_size": "images per batch; 0: autoattack takes the fastest, found by trying",
    "checks": "doubt the numbers, on at most 128 images",
    "save_images": "keep all adversarial images, in evaluation/adversarial/",
    "curve_attack": "attack of the curve over eps",
    "curve": "radii of the curve; none: no curve",
    "distances": "minimal-norm attacks to report distances of, e.g. cw_l2",
}


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "work directory of a run", flag_values=values)
    flags.DEFINE_string(
        "models", "", "stages to evaluate, e.g. baseline,probe (default: baseline and defended)", flag_values=values
    )
    flags.DEFINE_string("data_dir", "", "where TFDS data lies", flag_values=values)
    flags.DEFINE_bool("fresh", False, "discard earlier results", flag_values=values)
    cli.define_distributed(values)
    for name, text in OVERRIDES.items():
        switch = isinstance(config.base().evaluation[name], bool)
        (flags.DEFINE_bool if switch else flags.DEFINE_string)(name, None, text, flag_values=values)


def main(argv: list[str]) -> None:
    """Parses the command line, measures, prints the table."""
    options = cli.parse(argv, _define, __doc__)
    if not options.workdir:
        raise ValueError("which run? write --workdir=DIR")
    cfg, name = config.restore(options.workdir)
    cfg.data.data_dir = options.data_dir
    relative_step = spec.number(cfg.evaluation.step_size) / (spec.number(cfg.evaluation.eps) or 1.0)
    for field in OVERRIDES:
        if (given := options[field].value) is not None:
            cfg.evaluation[field] = _as(type(cfg.evaluation[field]), given, field)
    scaled = options.step_size is None and (options.eps or options.norm)
    if scaled:
        cfg.evaluation.step_size = repr(relative_step * spec.number(cfg.evaluation.eps, "eps"))
    stages = {label: label for label in spec.items(options.models)}
    for stage in stages:
        if stage not in config.TRAINED_STAGES:
            raise ValueError(f"models: unknown stage {stage!r}; known: {', '.join(config.TRAINED_STAGES)}")
    from clead_jax.core import sharding  # after the flags: a typo should not wait for jax
    from clead_jax.experiment import builders as build  # after the flags: a typo should not wait for jax
    from clead_jax.experiment import context as run  # after the flags: a typo should not wait for jax
    from clead_jax.experiment import evaluate as measure  # after the flags: a typo should not wait for jax
    from clead_jax.reporting import page

    sharding.initialize(options.distributed)
    build.check(cfg)
    if scaled and sharding.is_main():
        print(f"evaluate: step size {cfg.evaluation.step_size}, in the same proportion to eps as before")
    with cli.writing_in(options.workdir):
        directory = measure.measure(run.open_run(cfg, options.workdir, name), stages, options.fresh)
    if sharding.is_main():
        print(page.table(directory))
        shown = f"python -m clead_jax.report --workdir={options.workdir} shows them"
        print(f"results: {directory / 'results.json'}; {shown}")


def _as(wanted: type, given: Any, field: str) -> Any:
    if wanted is int:
        return spec.whole(given, field)
    return given if wanted is bool else given.replace("none", "")


if __name__ == "__main__":
    cli.run(main)
