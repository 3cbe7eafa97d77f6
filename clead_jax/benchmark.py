"""How fast this machine attacks and trains, beside how fast it multiplies matrices.

    python -m clead_jax.benchmark --config=configs/resnet18.py [--config.FIELD=VALUE ...] [--json=FILE]
    python -m clead_jax.benchmark --config=configs/resnet18.py --compile_for=a100-40gb [--devices=8] [--largest_batch]

Times, on random images: the forward pass and every attack of `config.evaluation.attacks`, driven as the evaluation
drives them (host copies and the check of every image included), and one training step of every stage. With several
devices all share each batch; if they are of one machine, the training PGD is also timed as one program on one device,
sharded, and pmapped. Then come the passes that attacks take to their verdicts, if broken images leave the batch or not;
the share of an attack's time that is its own and not the model's, found by the same attack on a linear model; and the
latency of the forward pass, from NumPy to NumPy, for 1, 8 and 64 images.

`images/s` are training images, however many views and attack steps each of them costs. FLOPs are those of convolutions
and matrix products (see `flops`). `of matmul` sets them against the fastest square matrix product measured here, on all
devices together, in the model's dtype and at jax's default precision (on recent GPUs TF32 where it says float32).
Full batches of a big network take minutes on a CPU: there, add for example --batch_size=16.

With --compile_for nothing is run or allocated, and no GPU is needed, only jax's CUDA plugin (the extra cuda12): every
stage's step, the forward pass and every attack's step are compiled for --devices such cards of one machine, about a
minute each. Printed are the memory that each program needs on a card, its FLOPs, what the cards send each other in it
(collectives) and its convolutions; with --largest_batch also the largest batch that fits, which compiles it some eight
times more. --only=pretrain,forward chooses among the programs. XLA measures nothing then: on the card it may choose
other algorithms for convolutions, which need other scratch memory.
"""

import copy
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from clead_jax.config import cli
from clead_jax.core import progress
from clead_jax.core.progress import log
from clead_jax.reporting import compiled as compiled_report


def _define(argv: list[str], values: flags.FlagValues) -> None:
    cli.define_config(values, argv)
    flags.DEFINE_float("seconds", 5.0, "spent on each line, at least", lower_bound=0.0, flag_values=values)
    flags.DEFINE_integer("batch_size", 0, "of every line (0: the config's)", lower_bound=0, flag_values=values)
    flags.DEFINE_string("json", "", "write the numbers to this file too", flag_values=values)
    said = "compile for this GPU, e.g. a100-40gb, and run nothing"
    flags.DEFINE_string("compile_for", "", said, flag_values=values)
    flags.DEFINE_integer("devices", 1, "how many of those GPUs", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("largest_batch", False, "with --compile_for: look for the largest batch", flag_values=values)
    flags.DEFINE_string("only", "", "with --compile_for: programs, e.g. pretrain,forward", flag_values=values)
    cli.define_distributed(values)


def main(argv: list[str]) -> None:
    """Parses the command line, measures, prints line by line."""
    given = cli.parse(cli.with_checked_config(argv), partial(_define, argv), __doc__)
    from clead_jax.core import numerics, sharding  # after the flags: a typo should not wait for jax

    _check(given)
    sharding.initialize(given.distributed)
    progress.show(given.verbosity, sharding.is_main)
    with numerics.defaults():
        (_compile if given.compile_for else _measure)(argv, given)


def _check(given: flags.FlagValues) -> None:
    """Raises ValueError for flags that say nothing without --compile_for, and for one that it cannot be with."""
    for name in ("largest_batch", "only", "devices"):
        if not given.compile_for and given[name].value != given[name].default:
            raise ValueError(f"--{name} goes with --compile_for=CARD")
    if given.compile_for and given.distributed:
        raise ValueError("--compile_for needs no --distributed: --devices=N says how many cards")


def _compile(argv: list[str], given: flags.FlagValues) -> None:
    import jax

    from clead_jax.experiment import compiling, context, targets

    jax.config.update("jax_platforms", "cpu")  # a GPU that is here, and perhaps at work, is left alone
    card = targets.card(given.compile_for)
    mesh, cfg = targets.mesh(card, given.devices), copy.deepcopy(given.config)
    if given.json:
        Path(given.json).touch()
    run = context.open_random(cfg, given.batch_size, mesh)
    chosen = compiling.chosen(run, given.only)
    name = {"config": Path(cli.config_path(argv)).stem}
    found: dict[str, Any] = name | card.record | compiling.environment(run) | {"programs": {}}
    log.info(compiled_report.header(found))
    for what, trace in chosen.items():
        told = compiling.report(program := trace(), mesh)
        if given.largest_batch and "error" not in told:
            told["largest_batch"] = compiling.largest_batch(given.config, what, program.batch, mesh, card.usable)
        found["programs"][what] = told
        log.info(compiled_report.lines(what, told, card.usable))
        if given.json:
            Path(given.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _measure(argv: list[str], given: flags.FlagValues) -> None:
    from clead_jax.core import sharding
    from clead_jax.experiment import context, throughput

    if given.json and sharding.is_main():
        Path(given.json).touch()  # better refused now than after the measuring
    run = context.open_random(given.config, given.batch_size)
    found = {"config": Path(cli.config_path(argv)).stem} | throughput.environment(run, given.seconds)
    log.info(_header(found))
    rate, found["lines"] = found["matmul_flops_per_s"][found["model"]["dtype"]], []
    for line in throughput.measure(run, given.seconds):
        share = line.flops_per_s / rate
        found["lines"].append(line._asdict() | {"share_of_matmul": share})
        per_image, per_second = _short(line.flops_per_image), _short(line.flops_per_s)
        speed = f"{line.batch:6}{line.repeats:9}{_three_digits(line.images_per_s):>10}"
        log.info(f"{line.what:24}{speed}{per_image:>12}{per_second:>9}{share:11.1%}")
    log.info(f"\n{'to the same verdict':24}{'passes':>10}{'without leaving':>17}{'times as fast':>15}")
    found["savings"] = []
    for saved in throughput.savings(run):
        found["savings"].append(saved)
        different = "" if saved["same_verdicts"] else "   verdicts differ"
        numbers = "{passes:10.4g}{without:17.4g}{ratio:15.3g}".format(**saved)
        log.info(f"attack {saved['attack']:17}{numbers}{different}")
    log.info(f"\n{'the attack itself':24}{'share of its time':>18}")
    found["own_shares"] = []
    for shared in throughput.own_shares(run, given.seconds):
        found["own_shares"].append(shared)
        log.info("attack {attack:17}{own_share:18.1%}".format(**shared))
    log.info(f"\n{'latency of the forward pass':30}{'batch':>6}{'median, ms':>12}{'95th, ms':>10}{'images/s':>10}")
    found["latency"] = []
    for measured in throughput.latencies(run, given.seconds / 5):
        found["latency"].append(measured)
        log.info("{:30}{batch:6}{median_ms:12.3g}{p95_ms:10.3g}{images_per_s:10.3g}".format("", **measured))
    if given.json and sharding.is_main():
        Path(given.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _header(found: dict[str, Any]) -> str:
    model, shape = found["model"], "x".join(map(str, found["image_shape"]))
    rates = ", ".join(f"{_short(rate)}FLOP/s {dtype}" for dtype, rate in found["matmul_flops_per_s"].items())
    counted, xla = (f"{_short(n)}FLOP" if n else "unknown" for n in found["forward_flops"].values())
    return (
        f"{found['config']}: {model['backbone']}, width {model['width']}, {model['dtype']}, random {shape} images\n"
        f"device: {found['devices']} x {found['device']}, jax {found['jax']}\n"
        f"matrix product: {rates}\n"
        f"one image forward: {counted}; by XLA's count {xla}\n\n"
        f"{'':24}{'batch':>6}{'repeats':>9}{'images/s':>10}{'FLOP/image':>12}{'FLOP/s':>9}{'of matmul':>11}"
    )


def _short(number: float) -> str:
    """1.234e10 -> '12.3 G'."""
    power = min(5, max(0, math.floor(math.log10(number)) // 3)) if number else 0
    return f"{_three_digits(number / 1000**power)} {' kMGTP'[power].strip()}"


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


if __name__ == "__main__":
    cli.run(main)
