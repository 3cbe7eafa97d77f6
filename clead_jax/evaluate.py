"""Evaluate saved models again, with other attacks, radii, steps or images.

    python -m clead_jax.evaluate --workdir=DIR [--attacks=fgsm,pgd(steps=100,restarts=5),cw] [--eps=4/255] ...

Finished measurements are reused (--fresh discards them). Results of the same threat model, split and images are merged
into evaluation/results.json; others go to evaluation/<tag>/.
"""

from absl import flags

from clead_jax import cli, config, values

OVERRIDES = {
    "attacks": "attacks, e.g. fgsm,pgd(steps=100),cw",
    "norm": "linf or l2",
    "eps": "radius in [0, 1] units, e.g. 8/255",
    "step_size": "step size of iterative attacks",
    "steps": "steps of iterative attacks",
    "restarts": "random restarts of iterative attacks",
    "split": "test, validation or train",
    "num_examples": "a class-balanced subset of this many images; 0: all",
    "which": "checkpoint: latest, best, or the number of a saved step",
    "batch_size": "images per batch",
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
        flags.DEFINE_string(name, None, text, flag_values=values)


def main(argv: list[str]) -> None:
    """Parses the command line, measures, prints the table."""
    options = cli.parse(argv, _define, __doc__)
    if not options.workdir:
        raise ValueError("which run? write --workdir=DIR")
    cfg, name = config.restore(options.workdir)
    cfg.data.data_dir = options.data_dir
    relative_step = values.number(cfg.evaluation.step_size) / (values.number(cfg.evaluation.eps) or 1.0)
    for field in OVERRIDES:
        if (text := options[field].value) is not None:
            whole = isinstance(cfg.evaluation[field], int)
            cfg.evaluation[field] = values.whole(text, field) if whole else text.replace("none", "")
    scaled = options.step_size is None and (options.eps or options.norm)
    if scaled:
        cfg.evaluation.step_size = repr(relative_step * values.number(cfg.evaluation.eps, "eps"))
    stages = {label: label for label in values.items(options.models)}
    for stage in stages:
        if stage not in config.TRAINED_STAGES:
            raise ValueError(f"models: unknown stage {stage!r}; known: {', '.join(config.TRAINED_STAGES)}")
    from clead_jax import build, measure, parallel, report, run  # after the flags: a typo should not wait for jax

    parallel.initialize(options.distributed)
    build.check(cfg)
    if scaled and parallel.is_main():
        print(f"evaluate: step size {cfg.evaluation.step_size}, in the same proportion to eps as before")
    with cli.writing_in(options.workdir):
        directory = measure.measure(run.open_run(cfg, options.workdir, name), stages, options.fresh)
    if parallel.is_main():
        print(report.table(directory))
        print(
            f"results: {directory / 'results.json'}; python -m clead_jax.report --workdir={options.workdir} shows them"
        )


if __name__ == "__main__":
    cli.run(main)
