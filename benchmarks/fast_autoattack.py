"""AutoAttack's version `fast` against `standard`: on how many images both agree, and what each costs.

    python -m benchmarks.fast_autoattack --json=results/fast-against-standard.json
        [--nets=silu,wide,pairs,small] [--parity=DIR] [--workdirs=NAME=DIR[:MODEL],...]
    python -m benchmarks.fast_autoattack --table=results/fast-against-standard.json

Run it in the repository's folder. Every net is attacked in Linf and in L2 by one version after the other, in the same
process. The nets are trained here on digits, in a minute each: `silu` and `wide` are adversarially trained, `small` is
not, and `pairs` tells 100 classes, two digits side by side. `--parity` is a folder with nets, images and the verdicts
of the authors' PyTorch code. `--workdirs` are runs of this package, evaluated with `--attacks=autoattack`: MODEL is
baseline or defended, and those results stand for standard's.

Rows of other nets in the file stay, so that it can be made net by net; `--table` prints it as the README has it.
Passes are forward equivalents per image (a backward pass is two), seconds include compilation.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from clead_jax.config import cli
from clead_jax.core import spec

VERSIONS = ("standard", "fast")


class Reference(NamedTuple):
    """What standard has left elsewhere, in place of measuring it here."""

    by: str
    correct: np.ndarray  # bool [N]
    passes: float | None = None  # forward equivalents per image, if they are known


class Problem(NamedTuple):
    """A net, the images it is attacked on, and the radii; norms with a reference are not attacked by standard again."""

    name: str
    forward: Callable[..., Any]
    variables: Any
    images: np.ndarray
    labels: np.ndarray
    eps: dict[str, float]
    reference: dict[str, Reference]


class Recipe(NamedTuple):
    """How a net is trained on digits."""

    widths: tuple[int, int, int]
    activation: str  # of jax.nn
    train_eps: float  # Linf; 0: no attack
    eps: dict[str, float]  # what it is attacked with
    digits: int = 1  # an image shows so many side by side; 10 classes each
    steps: int = 300


RECIPES = {
    "silu": Recipe((16, 32, 64), "silu", 0.2, {"linf": 0.2, "l2": 0.8}),
    "wide": Recipe((32, 64, 128), "relu", 0.2, {"linf": 0.2, "l2": 0.8}),
    "pairs": Recipe((24, 48, 96), "relu", 0.15, {"linf": 0.15, "l2": 0.6}, digits=2, steps=600),
    "small": Recipe((16, 32, 64), "relu", 0.0, {"linf": 0.05, "l2": 0.3}),
}


def _define(given: flags.FlagValues) -> None:
    flags.DEFINE_string("json", "", "the file that the numbers go to", flag_values=given)
    flags.DEFINE_string("nets", ",".join(RECIPES), "nets to train and attack", flag_values=given)
    flags.DEFINE_string("parity", "", "folder with robust.npz and clean.npz", flag_values=given)
    flags.DEFINE_string("workdirs", "", "runs to attack, NAME=DIR or NAME=DIR:MODEL", flag_values=given)
    flags.DEFINE_integer("images", 128, "test images of each net, at most", lower_bound=1, flag_values=given)
    flags.DEFINE_string("norms", "linf,l2", "norms", flag_values=given)
    flags.DEFINE_string("table", "", "only print this file as a table", flag_values=given)


def main(argv: list[str]) -> None:
    """Parses the command line, measures, prints line by line."""
    given = cli.parse(argv, _define, __doc__)
    if given.table:
        print(table(json.loads(Path(given.table).read_text())["rows"]))
        return
    if unknown := [name for name in spec.items(given.nets) if name not in RECIPES]:
        raise ValueError(f"nets: unknown {unknown[0]!r}; known: {', '.join(RECIPES)}")
    path = Path(given.json) if given.json else None
    for problem in problems(given):
        for norm in spec.items(given.norms):
            line = measure(problem, norm)
            print(table([line]), flush=True)
            if path:
                path.write_text(json.dumps(merged(path, [line]), indent=1) + "\n")


def problems(given: flags.FlagValues) -> Iterator[Problem]:
    """The nets asked for, one after the other."""
    for name in spec.items(given.nets):
        yield trained(name, given.images)
    for path in sorted(Path(given.parity).glob("*.npz")) if given.parity else []:
        yield parity(path, given.images)
    for item in spec.items(given.workdirs):
        name, _, place = item.partition("=")
        yield of_run(name, place)


def measure(problem: Problem, norm: str) -> dict[str, Any]:
    """One row: the versions on one net in one norm. A reference stands for standard."""
    import clead_jax

    found = {}
    for version in VERSIONS if norm not in problem.reference else VERSIONS[1:]:
        found[version] = clead_jax.audit(
            problem.forward,
            problem.images,
            problem.labels,
            norm,
            problem.eps[norm],
            f"autoattack(version={version})",
            variables=problem.variables,
            checks=False,
            batch_size=len(problem.labels),
        )
    return row(problem, norm, found)


def row(problem: Problem, norm: str, found: dict[str, Any]) -> dict[str, Any]:
    """What the audits say, as plain values. Passes are forward equivalents; `survivor`: of one that withstands all."""
    from clead_jax.attacks import autoattack

    line: dict[str, Any] = {"net": problem.name, "norm": norm, "eps": problem.eps[norm], "images": len(problem.labels)}
    for version, result in found.items():
        costs, left = cost(result), result.correct["autoattack"]
        line[version] = {
            "correct_after": {name: int(correct.sum()) for name, correct in result.correct.items()},
            "passes": float(costs.mean()),
            "passes_survivor": float(costs[left].max()) if left.any() else None,
            "seconds": round(result.seconds, 1),
        }
    line["fast"]["suite"] = ",".join(autoattack.texts("fast", norm).values())
    fast = found["fast"].correct["autoattack"]
    if norm in problem.reference:
        by, standard, passes = problem.reference[norm]
        line["standard"] = {"correct_after": {"autoattack": int(standard.sum())}, "by": by}
        line["standard"] |= {"passes": passes} if passes else {}
    else:
        standard = found["standard"].correct["autoattack"]
    for of in [of for of in ("passes", "seconds") if of in line["standard"]]:
        line[f"{of}_ratio"] = line["standard"][of] / line["fast"][of]
    line["verdicts_equal"] = float((standard == fast).mean())
    return line | {
        "only_standard_breaks": int((fast & ~standard).sum()),
        "only_fast_breaks": int((standard & ~fast).sum()),
    }


def cost(result: Any) -> np.ndarray:
    """Forward equivalents of every image, [N]."""
    return sum(of["forward"] + 2 * of["backward"] for of in result.passes.values())


def merged(path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The file's content with these rows in place of older ones of the same net and norm."""
    import jax

    key = lambda line: (line["net"], line["norm"])
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = {key(line): line for line in [*old, *rows]}
    note = (
        "versions in turn in one process, beside other programs; passes are forward equivalents, a backward pass is two"
    )
    return {
        "command": "python -m benchmarks.fast_autoattack",
        "note": note,
        "jax": jax.__version__,
        "rows": list(kept.values()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    head = (
        "| net | norm, eps | images | same verdict | left by standard / fast | passes an image | ratio | time ratio |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for line in rows:
        left, passes = ([], [])
        for of in (line["standard"], line["fast"]):
            left.append(f"{100 * of['correct_after']['autoattack'] / line['images']:.1f}")
            passes.append(f"{of['passes']:.0f}" if "passes" in of else "?")
        ratios = [f"{line[key]:.1f}" if key in line else "?" for key in ("passes_ratio", "seconds_ratio")]
        cells = [line["net"], f"{line['norm']} {line['eps']:.3g}", line["images"], f"{line['verdicts_equal']:.1%}"]
        lines.append("| " + " | ".join(map(str, [*cells, " / ".join(left), " / ".join(passes), *ratios])) + " |")
    return "\n".join(lines)


# --- nets -------------------------------------------------------------------------------------------------------------


def convolutions(activation: str) -> Callable[..., Any]:
    """(weights, x) -> logits: four 3x3 convolutions of strides 1, 2, 2, 1, mean over pixels, a linear layer."""
    import jax

    active = getattr(jax.nn, activation)

    def forward(weights: dict[str, Any], x: Any) -> Any:
        x = (x - 0.5) / 0.25
        for n, stride in enumerate((1, 2, 2, 1)):
            kernel, pads, dims = weights[f"conv{n}_w"], ((1, 1), (1, 1)), ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=dims)
            x = active(x + weights[f"conv{n}_b"])
        return x.mean((1, 2)) @ weights["dense_w"] + weights["dense_b"]

    return forward


def parity(path: Path, count: int) -> Problem:
    """A net of a parity file, with the verdicts of the authors' PyTorch code."""
    with np.load(path) as stored:
        found = dict(stored)
    weights = {key.removeprefix("net/"): value for key, value in found.items() if key.startswith("net/")}
    left = {norm: found[f"autoattack_standard_{norm}/correct"][:count] for norm in ("linf", "l2")}
    reference = {norm: Reference("the authors' PyTorch code", correct) for norm, correct in left.items()}
    images, labels = found["images"][:count], found["labels"][:count].astype(int)
    eps = {"linf": 8 / 255, "l2": 0.5}
    return Problem(f"parity {path.stem}", convolutions("relu"), weights, images, labels, eps, reference)


def of_run(name: str, place: str) -> Problem:
    """A model of a run on its test images; what AutoAttack standard has left in its evaluation is the reference."""
    import clead_jax
    from clead_jax import data

    workdir, _, label = place.partition(":")
    root, label = Path(workdir) / "evaluation", label or "defended"
    measured, own = (
        json.loads((root / "results.json").read_text()),
        json.loads((Path(workdir) / "config.json").read_text()),
    )
    threat, suite = measured["threat_model"], measured["protocols"]["autoattack"][label]
    if suite["version"] != "standard" or threat["norm"] != "linf":
        raise ValueError(f"{workdir} has no results of AutoAttack standard in Linf; write python -m clead_jax.evaluate")
    with np.load(root / "per_example.npz") as stored:
        index, correct = stored["index"], stored[f"{label}/autoattack"]
    passes = sum(of["forward"] + 2 * of["backward"] for of in suite["passes"].values())
    model = clead_jax.load(workdir, measured["models"][label]["checkpoint"]["stage"])
    test = data.load(own["config"]["data"]["name"]).test
    eps, reference = {"linf": threat["eps"], "l2": 0.5}, Reference("the run's own evaluation", correct, passes)
    images, labels = test.images[index], test.labels[index]
    return Problem(name, model.forward, model.variables, images, labels, eps, {"linf": reference})


def trained(name: str, count: int) -> Problem:
    """A net trained on digits by its recipe, adversarially if that has a radius."""
    import jax

    recipe = RECIPES[name]
    forward, rng = convolutions(recipe.activation), np.random.default_rng(0)
    train, test = examples(recipe.digits, rng)
    weights = initial(recipe, rng)
    update, state = trainer(forward, recipe, weights)
    for step in range(recipe.steps):
        batch = rng.integers(len(train[1]), size=128)
        state = update(state, train[0][batch], train[1][batch], jax.random.key(step))
    return Problem(name, forward, state[0], test[0][:count], test[1][:count], recipe.eps, {})


def examples(digits: int, rng: np.random.Generator) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """(images float32 [N, 8, 8 digits, 1], labels) to train on and to test; several digits stand side by side."""
    from clead_jax import data

    dataset = data.load("digits")
    splits = ((dataset.train_images, dataset.train_labels), (dataset.test_images, dataset.test_labels))
    if digits == 1:
        return tuple((np.float32(images / 255), labels) for images, labels in splits)
    found = []
    for (images, labels), count in zip(splits, (20_000, 1_000), strict=True):
        chosen = rng.integers(len(labels), size=(count, digits))
        side_by_side = np.concatenate([images[column] for column in chosen.T], axis=2)
        found.append((np.float32(side_by_side / 255), labels[chosen] @ 10 ** np.arange(digits)[::-1]))
    return tuple(found)


def initial(recipe: Recipe, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random weights of `convolutions`, He et al.'s."""
    channels, weights = (1, *recipe.widths, recipe.widths[-1]), {}
    for n, (fan, out) in enumerate(itertools.pairwise(channels)):
        weights[f"conv{n}_w"] = np.float32(rng.normal(size=(3, 3, fan, out)) * (2 / (9 * fan)) ** 0.5)
        weights[f"conv{n}_b"] = np.zeros(out, np.float32)
    classes = 10**recipe.digits
    weights["dense_w"] = np.float32(rng.normal(size=(channels[-1], classes)) / channels[-1] ** 0.5)
    return weights | {"dense_b": np.zeros(classes, np.float32)}


def trainer(forward: Callable[..., Any], recipe: Recipe, weights: Any) -> tuple[Callable[..., Any], Any]:
    """(update, state): one step of Adam on images that PGD-4 has attacked, if the recipe has a radius."""
    import jax
    import optax

    from clead_jax.attacks import GradientConfig, run
    from clead_jax.core.registry import ATTACKS

    optimizer, loss = (
        optax.adam(optax.cosine_decay_schedule(3e-3, recipe.steps)),
        optax.softmax_cross_entropy_with_integer_labels,
    )
    pgd = ATTACKS["pgd"]
    cfg = GradientConfig(eps=recipe.train_eps, step_size=recipe.train_eps / 2.5, steps=4, random_start=True)

    @jax.jit
    def update(state: Any, x: Any, labels: Any, key: Any) -> Any:
        weights, memory = state
        if recipe.train_eps:
            keys, now = jax.random.split(key, len(x)), lambda x: forward(weights, x)
            x = run(pgd.value, now, pgd.info["objective"], x, labels, keys, cfg)
        gradient = jax.grad(lambda weights: loss(forward(weights, x), labels).mean())(weights)
        change, memory = optimizer.update(gradient, memory)
        return optax.apply_updates(weights, change), memory

    return update, (weights, optimizer.init(weights))


if __name__ == "__main__":
    cli.run(main)
