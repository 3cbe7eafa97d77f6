"""How fast our attacks are beside PyTorch's: same machine, same net, same images, by turns.

    python -m clead_jax.against_torch [--net=small|tiny|digits|resnet18] [--attacks=pgd,apgd_ce,square] [--batch_size=N]

Needs `pip install -e ".[torch]"`. The other side is torchattacks, in a process of its own, so that the threads of
one are no burden to the other; both run on the CPU, and only one of them at a time.

Both get the same random weights (their logits must agree), images, labels (what the net says) and settings, as many
threads as there are cores, and one batch. The ball is so small that no image is fooled: torchattacks drops those as it
goes, and what is dropped is no work. Ours is timed as an evaluation drives it, with its looks at the clean and at the
attacked image; theirs as `attack(images, labels)`. An attack is shortened on both sides by "square(queries=500)" or
"apgd_ce(steps=20)".

Seconds are medians over all turns; the first call of each side, in which it compiles, is told apart. GFLOP/s count
convolutions and matrix products. Our PGD takes one gradient more than theirs: it looks at the last point too.

Needs a machine with nothing else to do. PyTorch's threads wait for one another at every layer, so that others at work
slow them tenfold, ours less: ratios that flatter. Put `taskset -c 0` before the command where it cannot be alone.
"""

import importlib
import importlib.util
import json
import multiprocessing
import os
import platform
import re
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from clead_jax.config import cli
from clead_jax.core import spec

NETS = ("small", "tiny", "digits", "resnet18")
LENGTH = {"pgd": "steps", "apgd_ce": "steps", "square": "queries"}  # the one setting that both sides share
NEEDED = ("torch", "torchattacks")
BUSY = 0.5  # the machine's load from which on it is not ours alone
CLOSE = 1e-4  # of logits that lie within this of each other, a net is the same


def _define(given: flags.FlagValues) -> None:
    nets = "four convolutions; tiny ResNet, on 32x32 pixels or on 8x8 as the quickstart has it; ResNet-18, CIFAR stem"
    flags.DEFINE_enum("net", "small", NETS, nets, flag_values=given)
    flags.DEFINE_string("attacks", ",".join(LENGTH), "what to time", flag_values=given)
    flags.DEFINE_integer("batch_size", 128, "images, attacked at once", lower_bound=1, flag_values=given)
    flags.DEFINE_integer("repeats", 5, "turns of each side", lower_bound=1, flag_values=given)
    flags.DEFINE_string("json", "", "write the numbers to this file too", flag_values=given)


def main(argv: list[str]) -> None:
    """Parses the command line, measures, prints line by line."""
    given = cli.parse(argv, _define, __doc__)
    texts = attacks(given.attacks)
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"{' and '.join(missing)} not installed; write: pip install -e '.[torch]'")
    if given.json:
        Path(given.json).touch()  # better refused now than after the measuring
    command = "python -m clead_jax.against_torch " + " ".join(argv[1:])
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
        theirs = lambda function, *args: child.submit(_theirs, function, *args).result()
        found = {"command": command, **_measure(given, texts, theirs)}
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1) + "\n")


def attacks(text: str) -> list[str]:
    """'pgd,square(queries=500)' -> its items. Raises ValueError for other attacks and settings, and for none."""
    items = spec.items(text)
    for item in items:
        name, own = spec.parse(item)
        if name not in LENGTH:
            raise ValueError(f"attacks: {name!r} is not timed; known: {', '.join(LENGTH)}")
        if unknown := own.keys() - {LENGTH[name]}:
            raise ValueError(f"attacks: {name} takes {LENGTH[name]} here, not {', '.join(sorted(unknown))}")
    if not items:
        raise ValueError(f"attacks: none given; known: {', '.join(LENGTH)}")
    return list(items)


def _theirs(function: str, *args: Any) -> Any:
    """Calls a function of the other side, in the child: torch must not come into this process."""
    return getattr(importlib.import_module("clead_jax.against_torch_theirs"), function)(*args)


def _measure(given: flags.FlagValues, texts: list[str], theirs: Callable[..., Any]) -> dict[str, Any]:
    os.environ["JAX_PLATFORMS"] = "cpu"
    from benchmarks.torchattacks import jax_side as ours  # after the flags: a typo should not wait for jax

    for text in texts:
        ours.named(text)  # refuses impossible lengths
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    problem = ours.problem(given.net, given.batch_size)
    weights, images, labels = problem.weights, problem.images, problem.labels
    found = {"net": given.net, "batch": given.batch_size, "image_shape": list(images.shape[1:]), "cpu": _cpu()}
    found |= {"cores": cores, "load_before": os.getloadavg(), "work": ours.work(problem)}
    found |= {**ours.environment(), **theirs("environment", cores)}
    found["logits_differ"] = float(abs(ours.logits(problem) - theirs("logits", weights, images)).max())
    if found["logits_differ"] > CLOSE:
        raise RuntimeError(f"the logits of the two nets differ by {found['logits_differ']}")
    if cores > 1 and found["load_before"][0] > BUSY:
        print(f"the load is {found['load_before'][0]:.1f}: others are at work, the ratios will flatter us; see --help")
    print(_header(found), flush=True)
    found["lines"] = []
    for text in texts:
        mine = partial(ours.attack, problem, text)
        other = partial(theirs, "attack", weights, spec.parse(text)[0], ours.settings(text), images, labels)
        first, *turns = [{"ours": mine(), "theirs": other()} for _ in range(1 + given.repeats)]
        line = {"attack": text, "passes": ours.passes(text), "first_call": first, "turns": turns}
        found["lines"].append(line | summary(line, found))
        print(_row(found["lines"][-1]), flush=True)
    return found


def summary(line: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Images/s and FLOP/s of both sides, their ratio, and whether all images stand at the end."""
    result: dict[str, Any] = {}
    for side in ("ours", "theirs"):
        seconds = statistics.median(turn[side][0] for turn in line["turns"])
        per_image = sum(n * work for n, work in zip(line["passes"][side], found["work"], strict=True))
        result[side] = {
            "images_per_s": found["batch"] / seconds,
            "flops_per_s": found["batch"] / seconds * per_image,
        }
    ratios = sorted(turn["theirs"][0] / turn["ours"][0] for turn in line["turns"])
    ratio = result["ours"]["images_per_s"] / result["theirs"]["images_per_s"]
    standing = all(left == found["batch"] for turn in line["turns"] for _, left in turn.values())
    return result | {"ratio": ratio, "ratio_of_turns": [ratios[0], ratios[-1]], "all_standing": standing}


def _header(found: dict[str, Any]) -> str:
    shape, peak = "x".join(map(str, found["image_shape"])), found["matmul_flops_per_s"] / 1e9
    forward, gradient = (f"{work / 1e6:.3g}" for work in found["work"])
    return (
        f"{found['net']}: {found['batch']} random images {shape}, float32; "
        f"MFLOP an image: {forward} forward, {gradient} with its gradient\n"
        f"{found['cpu']}, {found['cores']} cores, load {found['load_before'][0]:.1f}; "
        f"matrix product {peak:.0f} GFLOP/s\n"
        f"jax {found['jax']} against torch {found['torch']} with torchattacks {found['torchattacks']}; "
        f"logits agree within {found['logits_differ']:.0e}\n\n"
        f"{'':24}{'images/s':^20}{'':8}{'GFLOP/s':^20}{'first call, s':^20}\n"
        f"{'':24}{'ours':>10}{'theirs':>10}{'ratio':>8}" + 2 * f"{'ours':>10}{'theirs':>10}"
    )


def _row(line: dict[str, Any]) -> str:
    sides = [line[side] | {"first": line["first_call"][side][0]} for side in ("ours", "theirs")]
    rates, work, first = (
        "".join(f"{side[name] / unit:10.4g}" for side in sides)
        for name, unit in (("images_per_s", 1), ("flops_per_s", 1e9), ("first", 1))
    )
    fooled = "" if line["all_standing"] else "   some images were fooled: less work for torchattacks"
    return f"{line['attack']:24}{rates}{line['ratio']:8.2f}{work}{first}{fooled}"


def _cpu() -> str:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    cli.run(main)
