"""How a training step's program grows with devices, on fake CPU devices: collectives, and memory per device.

    python -m benchmarks.scale [--devices=1,2,8,64] [--stages=pretrain,supervised] [--batch_size=128]
        [--config=configs/resnet18.py --config.model.backbone=tiny --config.model.width=16 ...]
    python -m benchmarks.scale --networks

Nothing is trained: the step of each stage is compiled for so many devices, each number in a process of its own, and its
program is counted. Collectives are those of one step, with the bytes of their results on one device; memory is XLA's
own analysis of the CPU's program, in MiB per device; FLOPs are those of convolutions and matrix products. Other
backends merge collectives and lay out memory otherwise, so what holds for them is how the numbers grow, not the
numbers. The config, unless one is named, is the line above, with one step of the attacks.

--networks counts parameters and FLOPs of the networks' forward pass instead, by width and by size of the images.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from clead_jax.config import cli
from clead_jax.core import hlo, spec

SMALL = ("--config=configs/resnet18.py", "--config.model.backbone=tiny", "--config.model.width=16")
SMALL += ("--config.train_attack.steps=1",)
NETWORKS = (
    *(("resnet18", width, "cifar", 32) for width in (16, 32, 64, 128)),
    *(("resnet34", 64, "cifar", 32), ("resnet50", 64, "cifar", 32)),
    *(("resnet18", 64, "imagenet", 224), ("resnet50", 64, "imagenet", 224)),
)
COLUMNS = (
    "stage",
    "devices",
    "images each",
    "GFLOP an image",
    "collectives",
    "MiB sent",
    "arguments, MiB",
    "temporaries, MiB",
)
MIB = 2**20


def _define(argv: list[str], given: flags.FlagValues) -> None:
    cli.define_config(given, argv)
    flags.DEFINE_string("devices", "1,2,8,64", "numbers of fake devices", flag_values=given)
    flags.DEFINE_string("stages", "pretrain,supervised", "stages of the config", flag_values=given)
    flags.DEFINE_integer("batch_size", 128, "images, of all devices together", lower_bound=1, flag_values=given)
    flags.DEFINE_bool("networks", False, "count the networks instead", flag_values=given)
    flags.DEFINE_bool("here", False, "compile in this process, for the devices it has", flag_values=given)
    flags.DEFINE_string("json", "", "write the numbers to this file too", flag_values=given)


def main(argv: list[str]) -> None:
    """Parses the command line, compiles, prints a Markdown table."""
    argv = argv if any(word.startswith("--config=") for word in argv) else [argv[0], *SMALL, *argv[1:]]
    given = cli.parse(cli.with_checked_config(argv), lambda values: _define(argv, values), __doc__)
    if given.networks:
        print("\n".join(networks()))
        return
    if given.here:
        print(json.dumps(list(measured(given.config, spec.items(given.stages), given.batch_size))))
        return
    for word in spec.items(given.devices):
        if not word.isdecimal() or not int(word) or given.batch_size % int(word):
            raise ValueError(f"--devices: {word!r}; allowed: numbers that divide --batch_size={given.batch_size}")
    rows = [row for word in spec.items(given.devices) for row in _elsewhere(argv, int(word))]
    print(table(rows))
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def _elsewhere(argv: list[str], devices: int) -> list[dict[str, Any]]:
    """The rows of so many devices: jax must be told of them before it starts."""
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    words = [sys.executable, "-m", "benchmarks.scale", *argv[1:], "--here"]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{devices} devices: {(done.stderr.strip() or 'no word').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(cfg: Any, stages: tuple[str, ...], batch_size: int) -> Iterator[dict[str, Any]]:
    """One row for each stage, on all devices that this process sees. ValueError for a stage that there is not."""
    import numpy as np

    from clead_jax.core import memory, numerics, sharding
    from clead_jax.experiment.context import open_random
    from clead_jax.experiment.throughput import initial
    from clead_jax.experiment.train import begin, jitted
    from clead_jax.models import flops
    from clead_jax.training import state as states
    from clead_jax.training import supply

    with numerics.defaults():
        run = open_random(cfg, batch_size)
        variables = initial(run)()
        for name in stages:
            if name not in run.every_stage:
                raise ValueError(f"--stages: no stage {name!r}; known: {', '.join(run.every_stage)}")
            stage, whole = run.every_stage[name], sharding.replicated(run.mesh)
            state, rest = begin(stage, variables)
            frozen = states.Frozen(rest, *(variables if of else None for of in (stage.reference, stage.teacher)))
            images, labels = (a[:batch_size] for a in (run.dataset.train_images, run.dataset.train_labels))
            supplied = supply.resident(stage.step, states.Resident(frozen, images, labels), run.mesh)
            trees = (sharding.put(tree, whole) for tree in (state, supplied.frozen))
            args = (*trees, supplied.place(np.arange(batch_size)), stage.key)
            program = jitted(supplied.step, run.mesh).lower(*args).compile()
            needed = memory.need(program)
            yield {
                "stage": name,
                "devices": run.mesh.size,
                "batch_size": batch_size,
                "flops": flops.count(supplied.step, *args),
                "collectives": collectives(program.as_text()),
                "arguments": needed.arguments,
                "temporaries": needed.temporaries,
            }


def networks() -> Iterator[str]:
    """The lines of a Markdown table of `NETWORKS`; they are traced, not run."""
    import jax
    import numpy as np

    from clead_jax.models import Network, flops

    yield "| network | width | stem | image | parameters, M | forward pass, GFLOP |\n|---|---|---|---|---|---|"
    for backbone, width, stem, side in NETWORKS:
        network, image = Network(backbone, 10, width, stem=stem), np.zeros((1, side, side, 3), np.float32)
        variables = jax.eval_shape(lambda net=network, x=image: net.init(jax.random.key(0), x, False))
        parts = [variables["params"][part] for part in ("backbone", "head")]
        size = sum(leaf.size for leaf in jax.tree.leaves(parts)) / 1e6
        work = flops.count(lambda v, x, net=network: net.apply(v, x, False, method="logits"), variables, image) / 1e9
        yield f"| {backbone} | {width} | {stem} | {side}x{side} | {size:.3g} | {work:.3g} |"


def collectives(text: str) -> dict[str, list[int]]:
    """Kind -> [how many, bytes of their results] in the text of a program.

    Raises ValueError where one is not in the main computation: in a loop it would count once and run often.
    """
    computations, entry = hlo.parsed(text)
    for inside in (instruction for name, all_of in computations.items() if name != entry for instruction in all_of):
        if inside.opcode.removesuffix("-start") in hlo.KINDS:
            what = "in a computation that another calls; it may run more often than it is written"
            raise ValueError(f"{inside.opcode} {what}")
    return {kind: [each.count, each.bytes] for kind, each in hlo.collectives(text).items()}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for row in rows:
        kinds = ", ".join(f"{count} {kind}" for kind, (count, _) in sorted(row["collectives"].items())) or "none"
        sent = sum(size for _, size in row["collectives"].values())
        sizes = (f"{number / MIB:.2f}" for number in (sent, row["arguments"], row["temporaries"]))
        work = f"{row['flops'] / row['batch_size'] / 1e9:.3g}"
        shares = (row["stage"], str(row["devices"]), str(row["batch_size"] // row["devices"]), work)
        lines.append((*shares, kinds, *sizes))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    cli.run(main)
