"""How robust is a JAX model really? Any model: a `Classifier`, or a function from pixels in [0, 1] to logits.

    import clead_jax
    result = clead_jax.audit(forward, images, labels, norm="linf", eps="8/255")
    print(result)                          # accuracies with intervals, and every check that failed or warned
    result.correct["autoattack"]           # bool [N]

The same measurements as `python -m clead_jax.evaluate` makes, without a work directory.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clead_jax.attacks import autoattack, parse
from clead_jax.core import names, numerics, spec
from clead_jax.core.batches import sizes
from clead_jax.core.types import Array, Classifier, NamedAttack, PyTree, ThreatModel
from clead_jax.evaluation import classifier as classifiers
from clead_jax.evaluation import corruptions as common
from clead_jax.evaluation import inputs
from clead_jax.evaluation.batch_size import fastest_batch
from clead_jax.evaluation.budget import Budget
from clead_jax.evaluation.measurements import measure
from clead_jax.evaluation.plan import Plan, Subject, Suite
from clead_jax.results.intervals import interval95
from clead_jax.results.store import Store, accuracies


@dataclasses.dataclass
class Result:
    """What an audit found. Arrays have one row per image given; `print` shows it as a table."""

    norm: str
    eps: float
    correct: dict[str, np.ndarray]  # bool [N], "clean" and every attack; those of a suite: correct after it
    passes: dict[str, dict[str, np.ndarray]]  # "forward", "backward": int [N]
    adversarial: dict[str, np.ndarray]  # float32 [N, H, W, C], if asked for
    checks: list[dict[str, Any]]  # "name", "status", "value", "hint"
    notes: list[str]  # where an attack had to differ from its definition, and what it sees in place of the model
    complete: bool  # False: the budget ended first, and what was not attacked counts as correct
    seconds: float
    results: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)  # as results.json has them

    @property
    def corruptions(self) -> dict[str, Any]:
        """Accuracy under common corruptions: "accuracy" of each by severity, "mean", "worst"; empty if not measured."""
        return self.results.get("corruptions", {}).get("model", {})

    @property
    def accuracy(self) -> dict[str, float]:
        """For "clean" and every attack the share in [0, 1] still classified correctly."""
        return {name: float(hits.mean()) for name, hits in self.correct.items()}

    @property
    def interval95(self) -> dict[str, tuple[float, float]]:
        """The 95 % interval of each accuracy."""
        return {name: interval95(hits.sum(), len(hits)) for name, hits in self.correct.items()}

    @property
    def draws(self) -> dict[str, dict[str, float]]:
        """Of a randomized model, for "clean" and every attack: accuracy over "n" fresh draws, "mean" and "worst"."""
        return self.results.get("models", {}).get("model", {}).get("draws", {})

    def __str__(self) -> str:
        fresh = "  fresh draws: mean {:.1f}, worst of {} {:.1f}".format
        drawn = {name: fresh(100 * d["mean"], d["n"], 100 * d["worst"]) for name, d in self.draws.items()}
        rows = [row + drawn.get(name, "") for name, row in zip(self.correct, lines(self.correct), strict=True)]
        head = f"{len(self.correct['clean'])} images, {self.norm}, eps {self.eps:.4g}; accuracy in %, 95 % intervals"
        stopped = [] if self.complete else ["the budget ended before the attacks did: upper bounds"]
        loud = [c for status in ("fail", "warn") for c in self.checks if c["status"] == status]
        raised = [f"{c['status'].upper()} {c['name']}: {c['hint']}" for c in loud]
        found = self.corruptions
        rows += [f"{'corruptions':16} {100 * found['mean']:5.1f} worst {100 * found['worst']:.1f}"] if found else []
        quiet = [f"{sum(c['status'] == 'ok' for c in self.checks)} checks ok"] if self.checks else []
        return "\n".join([head, *rows, *stopped, *self.notes, *raised, *quiet])


def lines(correct: dict[str, np.ndarray]) -> list[str]:
    """Names, accuracies in % and their intervals, for the terminal."""
    line, found = "{:16} {:5.1f} [{:.1f}, {:.1f}]".format, accuracies(correct)
    return [line(n, *(100 * v for v in (a, *found["interval95"][n]))) for n, a in found["accuracy"].items()]


@inputs.one_line("forward cannot be run twice", jax.errors.UnexpectedTracerError)
@numerics.defaults()
def audit(
    forward: Classifier | Callable[..., Array],
    images: np.ndarray,
    labels: np.ndarray,
    norm: str = "linf",
    eps: str | float = "8/255",
    attacks: Sequence[str] | str = ("autoattack",),
    *,
    variables: PyTree = None,
    randomized: bool = False,
    twin: PyTree = None,
    training_attacks: tuple[str, ...] | None = None,
    published: tuple[str, str] | None = None,
    checks: bool = True,
    corruptions: bool = False,
    keep_images: bool = False,
    precision: str = "float32",
    batch_size: int | None = None,
    budget: str = "",
    path: str | Path | None = None,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> Result:
    """Attacks a model, and checks whether the result can be believed.

    Args:
      forward: a `Classifier`, or a function `forward(x)`, or `forward(v, x)` if `variables` are given, of x
        [B, H, W, C] in [0, 1], to logits [B, K]. If `randomized`, a key is its last argument, for noise.
      images: [N, H, W, C], floats in [0, 1] or uint8.
      labels: int [N] in [0, K).
      norm: "linf", "l2" or "l1"; "Linf", "L2" and the like too.
      eps: radius in units of the [0, 1] pixel range, "8/255" or a number; no larger than the cube of all images.
      attacks: names, or one string with commas: "autoattack" (for a randomized model its version "rand"),
        "autoattack(version=plus)", and any registered attack with its settings, as "pgd(steps=100,restarts=5)".
        Names as the field writes them, "PGD-20" or "APGD-CE", are taken too.
      variables: any pytree; its arrays are passed to `forward` as arguments, so that many checkpoints share one
        compilation, as long as all else that `forward` reads is the same.
      twin: variables of the undefended model, for the checks that compare.
      training_attacks: names of the attacks the model was trained on, if they are known.
      published: (data set, architecture), to compare with the best published figure.
      checks: whether to make sanity checks; they cost some attacks on at most 128 examples.
      corruptions: whether to measure accuracy under the 15 common corruptions (arXiv 1903.12261) at 5 severities, on at
        most 1,000 images; the result's `corruptions`. Needs the extra "corruptions", and 32 pixels a side.
      keep_images: whether the adversarial images come back; those of autoattack are x itself while it is correct,
        of a randomized model the last ones tried.
      precision: "bfloat16" attacks a copy of the model in bfloat16 (needs `variables`); success counts in float32 only.
      batch_size: images per batch; None: the fastest, found by trying.
      budget: most time of the attacks in this call ("90s", "10m", "2h") or most passes per image ("2000passes").
      path: a file where autoattack keeps its progress: the same call goes on from it, inside an attack too.
      seed: of all randomness.
      say: hears lines of progress, for example `print`.

    It runs under JAX's default types, promotion and random numbers, whatever is set around it. A model that jax has no
    rule to differentiate meets Square in place of the attacks that follow gradients; `notes` say so.

    Raises ValueError, one line, for wrong shapes, types, labels, settings, and a model that cannot be run. NaN, or
    images outside [0, 1], fail a check.
    """
    started, examples = time.monotonic(), inputs.checked_examples(images, labels)
    norm, shape = names.norm(norm), examples.images.shape[1:]
    threat = ThreatModel(norm, spec.unit(eps, "eps", norm, examples.images[0].size))
    seed = spec.whole(seed, "seed", 0, 2**32 - 1)
    batch_size = None if batch_size is None else spec.whole(batch_size, "batch_size", 1)
    if corruptions:
        common.check(shape)
    classifier = _classifier(forward, variables, randomized, precision, shape)
    kept_in = _in_a_folder(path) if path else None
    compiled = classifiers.compiled(classifier)
    classes = inputs.num_classes(compiled, examples)
    direct, suite = _asked(attacks, threat, classes, "rand" if classifier.randomized else "standard", precision)
    notes = suite.notes if suite else []
    if why := inputs.no_derivative(compiled, examples, precision):
        direct, notes = _without_gradients(direct, suite, threat, why)
        suite = None
    limit = Budget(*spec.budget(budget))
    wanted = batch_size or (sizes(1, compiled.mesh.size)[0] if why else fastest_batch(compiled, examples))
    compiled = compiled.in_batches_of(sizes(wanted, compiled.mesh.size)[-1])
    subject = Subject("model", compiled, {"stage": "model", "which": "given", "fingerprint": classifier.fingerprint})
    others = [] if twin is None else [Subject("twin", compiled.with_variables(classifiers.arrays(twin)), {})]
    plan = Plan(
        threat_model=threat,
        num_classes=classes,
        seed=seed,
        direct=tuple(direct),
        suite=suite,
        checks=checks,
        corruptions=corruptions,
        save_images=keep_images,
        training_attacks=training_attacks,
        undefended="twin",
        published=published,
        budget=limit,
        strict=False,
        say=lambda line: say(line.removeprefix("model/")) if say else None,
    )
    store = Store({}, examples.index, examples.labels, progress_path=kept_in)
    complete = measure(plan, [subject], examples, store, others=others)
    notes = [*classifier.metadata.get("attacks_see", []), *notes]
    return _result(threat, store, notes, complete, time.monotonic() - started)


def _result(threat: ThreatModel, store: Store, notes: list[str], complete: bool, seconds: float) -> Result:
    """What was measured of the one model, under names without its label."""
    own = {name.removeprefix("model/"): value for name, value in store.records.items() if name.startswith("model/")}
    kept = {name.removeprefix("model/"): value for name, value in store.images.items()}
    passes, checks = store.passes.get("model", {}), store.model("model").get("checks", [])
    return Result(threat.norm, threat.eps, own, passes, kept, checks, notes, complete, seconds, store.results)


def _in_a_folder(path: str | Path) -> Path:
    """Raises ValueError where there is no folder that the file could be written in."""
    found = Path(path).expanduser()
    if not found.absolute().parent.is_dir():
        raise ValueError(f"path={str(path)!r}: there is no folder {Path(path).parent}")
    return found


def _without_gradients(
    direct: list[NamedAttack], suite: Suite | None, threat: ThreatModel, why: str
) -> tuple[list[NamedAttack], list[str]]:
    """The attacks that need no gradient, with Square in place of those that do, and a note of it."""
    left = [named for named in direct if named.attack.forward_only]
    dropped = [named.name for named in direct if named not in left] + ["autoattack"] * bool(suite)
    if dropped and "square" not in [named.name for named in left]:
        left.append(parse.attack_at("square", *threat))
    return left, [f"the model has no derivative ({why}): square in place of {', '.join(dropped)}"] * bool(dropped)


def _classifier(
    model: Classifier | Callable, variables: PyTree, randomized: bool, precision: str, shape: tuple[int, ...]
) -> Classifier:
    """The model, whatever form it was given in, for images of this shape."""
    forward = model if variables is not None else lambda variables, x, *key: model(x, *key)
    classifier = model if isinstance(model, Classifier) else Classifier(forward, variables, randomized=randomized)
    if isinstance(model, Classifier) and (variables is not None or randomized > model.randomized):
        raise ValueError("a Classifier has variables= and randomized= of its own; see dataclasses.replace")
    classifier = dataclasses.replace(
        classifiers.of_arrays(classifier), image_shape=tuple(classifier.image_shape or shape)
    )
    if (expected := classifier.image_shape) != shape:
        raise ValueError(f"the model takes images {expected}, these are {shape}")
    if precision not in spec.PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it can be {', '.join(spec.PRECISIONS)}")
    if precision == "float32":
        return classifier
    if not jax.tree.leaves(classifier.variables):
        raise ValueError("precision='bfloat16' needs variables=: weights inside `forward` cannot be cast")
    attacked = classifier.attack_forward or classifier.forward
    return dataclasses.replace(classifier, attack_forward=classifiers.in_bfloat16(attacked))


def _asked(
    attacks: Sequence[str] | str, threat: ThreatModel, num_classes: int, version: str, precision: str
) -> tuple[list[NamedAttack], Suite | None]:
    """What is asked for, as attacks; ValueError for what cannot run, before anything does."""
    if not (texts := [names.attack(text) for text in (spec.items(attacks) if isinstance(attacks, str) else attacks)]):
        raise ValueError("attacks is empty; write for example autoattack")
    suites = [text for text in texts if spec.parse(text)[0] == "autoattack"]
    asked = autoattack.autoattack_version(suites[-1], version) if suites else ""
    autoattack.check_names(texts, asked)
    direct = [parse.attack_at(text, *threat) for text in texts if text not in suites]
    return direct, Suite(asked, precision, *autoattack.autoattack(asked, *threat, num_classes)) if asked else None
