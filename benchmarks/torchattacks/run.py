"""The speed of our attacks beside torchattacks': same machine, same net, same images, in turns.

    python -m benchmarks.torchattacks.run [--net=small|tiny|digits|resnet18] [--attacks=pgd,square] [--eps=8/255]

Run it in the repository's folder, after `pip install -e ".[torch]"`. torchattacks runs in a process of its own, so that
the threads of one side do not disturb the other; both run one at a time, on the CPU with as many threads as cores, or
with --device=gpu on a GPU, where jax must leave torch memory (XLA_PYTHON_CLIENT_PREALLOCATE=false). --compiled compiles
torch's net by `torch.compile`.

Both sides get the same random weights (their logits must agree), images, labels (the net's predictions), settings and
one batch. Ours is timed as an evaluation runs it, with the classification of the clean and of the attacked images;
theirs as `attack(images, labels)`. "square(queries=500)" or "apgd_ce(steps=20)" shorten an attack on both sides.

Without --eps the ball is so small that no image is broken, and the rates of the same work are compared: images/s, and
GFLOP/s of convolutions and matrix products. (Our PGD takes one gradient more than theirs, at the last point.)

With --eps the time to the same verdict is compared: the seconds until each side knows which images are broken within
eps. In ours broken images leave the batch; torchattacks drops them in Square and AutoAttack. "autoattack" runs theirs
and ours, "autoattack(version=fast)" our shorter suite against theirs. Choose a radius at which most images
fall, and compare the two columns of images still correct.

Times are medians over all turns; the first call of each side, which compiles, is reported separately. Use an idle
machine: PyTorch's threads wait for one another at every layer, so other load slows them more than ours, and the ratios
are too favourable to us. `taskset -c 0` before the command helps where that is not possible.
"""

import importlib
import importlib.util
import json
import multiprocessing
import os
import pickle
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
# The one setting that both sides share; torch's side of autoattack is standard, whatever our version is.
LENGTH = {"pgd": "steps", "apgd_ce": "steps", "square": "queries", "autoattack": "version"}
USUAL = "pgd,apgd_ce,square"
NEEDED = ("torch", "torchattacks")
SMALL = 1e-6  # an eps at which no image is broken
BUSY = 0.5  # a load of the machine above this is other people's work
CLOSE, CLOSE_TF32 = 1e-4, 2e-2  # two nets are the same if their logits differ by less, of the largest where above 1
SIDES = ("ours", "theirs")


def _define(given: flags.FlagValues) -> None:
    nets = "four convolutions; tiny ResNet, on 32x32 pixels or on 8x8 as in the quickstart; ResNet-18, CIFAR stem"
    flags.DEFINE_enum("net", "small", NETS, nets, flag_values=given)
    flags.DEFINE_string("attacks", USUAL, "what to time", flag_values=given)
    flags.DEFINE_string("eps", "", "Linf radius: compares the time to the same verdict", flag_values=given)
    flags.DEFINE_integer("batch_size", 128, "images, attacked at once", lower_bound=1, flag_values=given)
    flags.DEFINE_integer("repeats", 5, "turns of each side", lower_bound=1, flag_values=given)
    flags.DEFINE_enum("device", "cpu", ("cpu", "gpu"), "where both sides compute", flag_values=given)
    flags.DEFINE_bool("compiled", False, "torch's net by torch.compile", flag_values=given)
    flags.DEFINE_string("json", "", "write the numbers to this file too", flag_values=given)


def main(argv: list[str]) -> None:
    """Parses the command line, measures, prints line by line."""
    given = cli.parse(argv, _define, __doc__)
    texts, eps = attacks(given.attacks), spec.unit(given.eps, "eps") if given.eps else SMALL
    if not given.eps and (cascades := [text for text in texts if spec.parse(text)[0] == "autoattack"]):
        raise ValueError(f"attacks: {cascades[0]} is timed to its verdict; give a radius, --eps=8/255")
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"{' and '.join(missing)} not installed; write: pip install -e '.[torch]'")
    if given.json:
        Path(given.json).touch()  # an error now, not after the measurement
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
        theirs = lambda function, *args: child.submit(_theirs, function, *args).result()
        found = {"command": command(argv), **_measure(given, texts, eps, theirs)}
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1) + "\n")


def command(argv: list[str]) -> str:
    """What was typed, without the file that the numbers go to."""
    kept = re.sub(r"(^|\0)--?json[=\0][^\0]*", "", "\0".join(argv[1:])).split("\0")
    return " ".join(["python -m benchmarks.torchattacks.run", *filter(None, kept)])


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
    """Calls a function of the other side, in the child: torch must not be imported in this process."""
    return getattr(importlib.import_module("benchmarks.torchattacks.torch_side"), function)(*args)


def _measure(given: flags.FlagValues, texts: list[str], eps: float, theirs: Callable[..., Any]) -> dict[str, Any]:
    os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[given.device]
    from benchmarks.torchattacks import jax_side as ours  # after the flags: an error there needs no jax

    for text in texts:
        ours.cascade(text, eps)  # refuses impossible lengths
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    problem = ours.problem(given.net, given.batch_size)
    weights, images, labels = pickle.dumps(problem.weights), problem.images, problem.labels
    device = given.device
    found = {"net": given.net, "batch": given.batch_size, "eps": eps, "image_shape": list(images.shape[1:])}
    found |= {"device": device, "compiled": given.compiled, "logits_largest": float(abs(ours.logits(problem)).max())}
    found |= {"cpu": _cpu(), "cores": cores, "load_before": os.getloadavg(), "work": ours.work(problem)}
    found |= {**ours.environment(), **theirs("environment", cores, device)}
    found["logits_differ"] = float(abs(ours.logits(problem) - theirs("logits", weights, images, device)).max())
    if found["logits_differ"] > {"cpu": CLOSE, "gpu": CLOSE_TF32}[device] * max(1.0, found["logits_largest"]):
        raise RuntimeError(f"the logits of the two nets differ by {found['logits_differ']}")
    if cores > 1 and found["load_before"][0] > BUSY:
        print(f"the load is {found['load_before'][0]:.1f}: the ratios will be too favourable to us; see --help")
    print(_header(found), flush=True)
    found["lines"] = []
    for text in texts:
        mine = partial(ours.attack, problem, text, eps)
        sent = (weights, spec.parse(text)[0], ours.settings(text, eps), images, labels, device, given.compiled)
        other = partial(theirs, "attack", *sent)
        first, *turns = [{"ours": mine(), "theirs": other()} for _ in range(1 + given.repeats)]
        line = {"attack": text, "passes": ours.passes(text), "first_call": first, "turns": turns}
        found["lines"].append(line | summary(line, found))
        print(_row(found["lines"][-1], found), flush=True)
    return found


def summary(line: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Seconds, images/s, FLOP/s (if no image is broken) and images still correct of both sides; ratios of the times."""
    result: dict[str, Any] = {}
    for side in SIDES:
        seconds = statistics.median(turn[side][0] for turn in line["turns"])
        correct = statistics.median_low([turn[side][1] for turn in line["turns"]])
        result[side] = {"seconds": seconds, "images_per_s": found["batch"] / seconds, "correct": correct}
        if line["passes"] and unbroken(line, found, side):
            per_image = sum(n * work for n, work in zip(line["passes"][side], found["work"], strict=True))
            result[side]["flops_per_s"] = found["batch"] / seconds * per_image
    ratios = sorted(turn["theirs"][0] / turn["ours"][0] for turn in line["turns"])
    ratio = result["theirs"]["seconds"] / result["ours"]["seconds"]
    whole = all(unbroken(line, found, side) for side in SIDES)
    return result | {"ratio": ratio, "ratio_of_turns": [ratios[0], ratios[-1]], "all_correct": whole}


def unbroken(line: dict[str, Any], found: dict[str, Any], side: str) -> bool:
    """Whether no image was broken on a side, in any turn."""
    return all(turn[side][1] == found["batch"] for turn in line["turns"])


def _header(found: dict[str, Any]) -> str:
    shape, peak = "x".join(map(str, found["image_shape"])), found["matmul_flops_per_s"] / 1e9
    forward, gradient = (f"{work / 1e6:.3g}" for work in found["work"])
    columns = [("images/s", True), ("GFLOP/s", False)]
    if found["eps"] != SMALL:
        columns = [("seconds to the verdict", True), ("images still correct", False)]
    titles = "".join(f"{title:^20}{'':{8 * ratio}}" for title, ratio in [*columns, ("first call, s", False)])
    sides = f"{'ours':>10}{'theirs':>10}"
    return (
        f"{found['net']}: {found['batch']} random images {shape}, float32; "
        f"MFLOP an image: {forward} forward, {gradient} with its gradient\n"
        f"{found.get('torch_device', found['cpu'])}, {found['cores']} cores, load {found['load_before'][0]:.1f}; "
        f"matrix product {peak:.0f} GFLOP/s\n"
        f"jax {found['jax']} against torch {found['torch']} with torchattacks {found['torchattacks']}; "
        f"logits agree within {found['logits_differ']:.0e}\n\n"
        f"{'':24}{titles}\n{'':24}{sides}{'ratio':>8}{sides}{sides}"
    )


def _row(line: dict[str, Any], found: dict[str, Any]) -> str:
    sides = [line[side] | {"first": line["first_call"][side][0]} for side in SIDES]
    verdict = found["eps"] != SMALL
    fields = (("seconds", 1), ("correct", 1)) if verdict else (("images_per_s", 1), ("flops_per_s", 1e9))
    first, second, third = (
        "".join(f"{side.get(name, 0) / unit:10.4g}" for side in sides) for name, unit in (*fields, ("first", 1))
    )
    note = "" if verdict or line["all_correct"] else "   some images were broken: less work, use --eps"
    return f"{line['attack']:24}{first}{line['ratio']:8.2f}{second}{third}{note}"


def _cpu() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    cli.run(main)
