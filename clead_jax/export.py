"""Hand a trained model on: a file that takes pixels and gives logits, and a card that says how robust the file is.

    python -m clead_jax.export --workdir=DIR --format=jax,stablehlo,onnx,safetensors [--output=DIR] [--batch_size=N]
    python -m clead_jax.export --workdir=DIR --stage=baseline --attacks="pgd(steps=100)" --num_examples=1000 ...

Pixels are float32 [B, H, W, C] in [0, 1]; normalisation is inside, BatchNorm folded where that moves no logit by more
than 1e-5 of the largest. Every file is read again, compared with the model, attacked, and timed: card.json and card.md
say what was found. `clead_jax.load_exported(FILE)` and `python -m clead_jax.audit --model=FILE` take a file of jax.
"""

from pathlib import Path

from absl import flags

from clead_jax import config
from clead_jax.config import cli
from clead_jax.core import progress, spec

TEXTS = {
    "stage": "what to export: a stage, DIR:STAGE, or a wrapper (default: the defended model)",
    "format": "some of jax, stablehlo, onnx, safetensors",
    "output": "a new folder (default: export, in the work directory)",
    "batch_size": "images that a file takes at a time: a number, or symbolic for any",
    "attacks": "attacks on source and file; their images are shown to files without a gradient too",
    "which": "checkpoint: latest, best, or the number of a saved step",
    "weights": "averaged weights of the checkpoint: ema or swa",
    "plugins": "modules to import, where the run needs its own",
    "data_dir": "where TFDS data lies",
    "config.data.name": "where a user's own data lie now: npz:FILE or folder:DIR",
}
DEFAULTS = {"format": "jax", "batch_size": "symbolic", "attacks": "autoattack(version=fast)", "which": "latest"}


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "work directory of a run", flag_values=values)
    for name, text in TEXTS.items():
        flags.DEFINE_string(name, DEFAULTS.get(name, ""), text, flag_values=values)
    flags.DEFINE_integer("num_examples", 256, "a class-balanced subset; 0: all", lower_bound=0, flag_values=values)


def main(argv: list[str]) -> None:
    """Parses the command line, writes, measures, prints the card."""
    given = cli.parse(argv, _define, __doc__)
    if not given.workdir:
        raise ValueError("which run? write --workdir=DIR")
    cfg, name = config.restore(given.workdir)
    batch_size = None if given.batch_size == "symbolic" else spec.whole(given.batch_size, "batch_size", 1)
    cfg.data.data_dir, cfg.data.name = given.data_dir, given["config.data.name"].value or cfg.data.name
    cfg.evaluation.which, cfg.evaluation.weights = given.which, given.weights
    cfg.evaluation.num_examples = given.num_examples
    from clead_jax.experiment import builders, context, stages
    from clead_jax.experiment.export import export

    progress.show(given.verbosity)
    builders.import_named(cfg, given.workdir, given.plugins)
    stages.check(cfg)
    output = Path(given.output or Path(given.workdir, "export"))
    run = context.open_run(cfg, given.workdir, name, find_data=not given["config.data.name"].value)
    with cli.writing_in(str(output)):
        wanted = dict.fromkeys(spec.items(given.format))
        card = export(run, given.stage, wanted, batch_size, given.attacks, output, cli.command("export", argv[1:]))
    print(f"{card.read_text('utf-8')}\nfiles: {output}")


if __name__ == "__main__":
    cli.run(main)
