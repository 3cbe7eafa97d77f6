"""Evaluate saved models again, with other attacks, radii, steps or images, or under a stricter protocol.

    python -m clead_jax.evaluate --workdir=DIR [--attacks=fgsm,pgd(steps=100,restarts=5),cw] [--eps=4/255] ...
    python -m clead_jax.evaluate --workdir=DIR --attacks=autoattack [--budget=2h] [--save_images] ...
    python -m clead_jax.evaluate --workdir=DIR --models="probe,wide=OTHER_DIR:probe,both=ensemble(baseline+probe)" ...
    python -m clead_jax.evaluate --workdir=DIR --norm=linf,l2,l1 --eps=8/255,0.5,12 ...     # each, and their union

Data that were moved are named by --config.data.name=npz:FILE (or folder:DIR); those to train on must be the same.
Finished measurements are reused (--fresh discards them). Results of the same threat model, split and images are merged
into evaluation/results.json; others go to evaluation/<tag>/. The union of several norms, in which an image counts only
if it withstands all, is in evaluation/union.json.
"""

from pathlib import Path

from absl import flags

from clead_jax import config
from clead_jax.config import cli
from clead_jax.core import names, progress, spec

OVERRIDES = {
    "attacks": "attacks, e.g. fgsm,pgd(steps=100),cw,autoattack",
    "protocol": "some of paper,whitebox,autoattack",
    "transfer.source": "model that transfer images are made on: a stage, or DIR or DIR:STAGE of another work directory",
    "transfer.attacks": "attacks that make them (default: those of --attacks)",
    "transfer.eps": "their radii, e.g. 8/255,4/255",
    "version": "of autoattack: standard, plus, rand, fast or strongest",
    "precision": "in which autoattack differentiates: float32 or bfloat16; float32 judges",
    "budget": "most time (90s, 10m, 2h) or passes per image (2000passes) of the attacks; the same command goes on",
    "norm": "linf, l2 or l1, or several with commas",
    "eps": "radius in [0, 1] units, e.g. 8/255; one for each norm",
    "step_size": "step size of iterative attacks",
    "steps": "steps of iterative attacks",
    "restarts": "random restarts of iterative attacks",
    "split": "test, validation or train",
    "num_examples": "a class-balanced subset of this many images; 0: all",
    "which": "checkpoint: latest, best, or the number of a saved step",
    "weights": "averaged weights of the checkpoint: ema or swa",
    "batch_size": "images per batch; 0: the fastest, found by trying",
    "checks": "sanity checks of the numbers, on at most 128 images",
    "save_images": "keep all adversarial images, in evaluation/adversarial/",
    "curve_attack": "attack of the curve over eps",
    "curve": "radii of the curve; none: no curve",
    "corruptions": "accuracy under the 15 common corruptions, on at most 1,000 images",
    "distances": "minimal-norm attacks to report distances of, e.g. cw_l2",
}


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "work directory of a run", flag_values=values)
    models = "what to evaluate, as [LABEL=]STAGE, [LABEL=]DIR:STAGE or a wrapper (default: baseline and defended)"
    flags.DEFINE_string("models", "", models, flag_values=values)
    flags.DEFINE_string("plugins", "", "modules to import, where the run needs its own", flag_values=values)
    flags.DEFINE_string("data_dir", "", "where TFDS data lies", flag_values=values)
    own = "where a user's own data lie now: npz:FILE or folder:DIR"
    flags.DEFINE_string("config.data.name", "", own, flag_values=values)
    flags.DEFINE_bool("fresh", False, "discard earlier results", flag_values=values)
    cli.define_distributed(values)
    for name, text in OVERRIDES.items():
        switch = isinstance(config.flatten(config.base().evaluation)[name], bool)
        (flags.DEFINE_bool if switch else flags.DEFINE_string)(name, None, text, flag_values=values)


def main(argv: list[str]) -> None:
    """Parses the command line, measures, prints the table."""
    options = cli.parse(argv, _define, __doc__)
    if not options.workdir:
        raise ValueError("which run? write --workdir=DIR")
    cfg, name = config.restore(options.workdir)
    threats = names.threats(options.norm or cfg.evaluation.norm, options.eps or cfg.evaluation.eps)
    several = [config.restore(options.workdir)[0] for _ in threats]
    scaled = [_override(each, options, *threat) for each, threat in zip(several, threats, strict=True)]
    for each in several[1:]:
        each.evaluation.corruptions, each.plugins = False, options.plugins  # measured, and said, with the first
    from clead_jax.core import sharding  # after the flags: a typo should not wait for jax
    from clead_jax.experiment import builders, context, stages
    from clead_jax.experiment.evaluate import evaluate
    from clead_jax.reporting import page
    from clead_jax.results import read, union

    sharding.initialize(options.distributed)
    progress.show(options.verbosity, sharding.is_main)
    for each, rescaled in zip(several, scaled, strict=True):
        builders.import_named(each, options.workdir, options.plugins)
        stages.check(each)
        if rescaled:
            size, norm = each.evaluation.step_size, each.evaluation.norm
            progress.log.info(f"evaluate: step size {size} in {norm}, in the same proportion to eps as before")
    run = context.open_run(several[0], options.workdir, name, find_data=not options["config.data.name"].value)
    runs = [context.under(run, each) for each in several]
    base = Path(options.workdir) / "evaluation"
    with cli.writing_in(options.workdir), run.alone():
        folders = [evaluate(each, options.models, options.fresh) for each in runs]
        if len(folders) > 1 and sharding.is_main():
            of = ["" if folder == base else folder.name for folder in folders]
            union.write(base, {part: read.evaluation(folder) for part, folder in zip(of, folders, strict=True)}, of)
    if sharding.is_main():
        tables = [f"{page.table(folder)}\nresults: {folder / 'results.json'}" for folder in folders]
        tables += [f"{page.union_table(options.workdir)}\nresults: {base / union.FILE}"] if len(folders) > 1 else []
        print("\n\n".join(tables) + f"; python -m clead_jax.report --workdir={options.workdir} shows them")


def _override(cfg: config.Config, options: flags.FlagValues, norm: str, eps: str) -> bool:
    """Puts the flags, and one threat model, into the config. Whether the step size was scaled to another radius."""
    cfg.data.data_dir, own = options.data_dir, cfg.evaluation
    cfg.data.name = options["config.data.name"].value or cfg.data.name
    relative_step = own.step_size / (own.eps or 1.0)
    read = {int: spec.whole, float: spec.number, bool: lambda given, _: given}
    values = {field: options[field].value for field in OVERRIDES} | {"norm": norm, "eps": eps}
    for field, given in values.items():
        if given is not None:
            *within, last = field.split(".")
            section = own[within[0]] if within else own
            section[last] = read.get(type(section[last]), lambda given, _: given.replace("none", ""))(given, field)
    scaled = options.step_size is None and bool(options.eps or options.norm)
    if scaled:
        own.step_size = relative_step * own.eps
    return scaled


if __name__ == "__main__":
    cli.run(main)
