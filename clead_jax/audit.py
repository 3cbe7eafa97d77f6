"""How robust is a JAX model really? Any model: a function from pixels in [0, 1] to logits.

from clead_jax.audit import audit
result = audit(forward, images, labels, norm="linf", eps="8/255")
print(result)                          # accuracies with intervals, and every doubt about them
result.correct["autoattack"]           # bool [N]
"""

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from clead_jax.attacks import parse as arsenal
from clead_jax.core import sharding, spec
from clead_jax.core.types import Array, PyTree
from clead_jax.evaluation import autoattack, bare
from clead_jax.evaluation import runner as cascade
from clead_jax.evaluation.checks.context import Subject
from clead_jax.evaluation.checks.run import examine
from clead_jax.evaluation.verify import NamedAttack, pixels
from clead_jax.results import intervals as statistics

FEW = 128  # examples the checks look at


@dataclasses.dataclass
class Result:
    """What an audit found. Arrays have one row per image given; `print` shows it as a table."""

    norm: str
    eps: float
    correct: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # bool [N], "clean" and every attack
    passes: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)  # "forward", "backward": int [N]
    adversarial: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # float32 [N, H, W, C], if asked for
    checks: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # "name", "status", "value", "hint"
    notes: list[str] = dataclasses.field(default_factory=list)  # where an attack had to differ from its definition
    complete: bool = True  # False: the budget ended first, and what was not attacked counts as standing
    seconds: float = 0.0

    @property
    def accuracy(self) -> dict[str, float]:
        """For "clean" and every attack the share in [0, 1]; of the attacks of a cascade: still standing after it."""
        return {name: float(hits.mean()) for name, hits in self.correct.items()}

    @property
    def interval95(self) -> dict[str, tuple[float, float]]:
        """The 95 % interval of each accuracy."""
        return {name: statistics.interval95(hits.sum(), len(hits)) for name, hits in self.correct.items()}

    def __str__(self) -> str:
        line = "{:16} {:5.1f} [{:.1f}, {:.1f}]".format
        rows = [line(n, *(100 * v for v in (a, *self.interval95[n]))) for n, a in self.accuracy.items()]
        head = f"{len(self.correct['clean'])} images, {self.norm}, eps {self.eps:.4g}; accuracy in %, 95 % intervals"
        stopped = [] if self.complete else ["the budget ended before the attacks did: upper bounds"]
        loud = [c for status in ("fail", "warn") for c in self.checks if c["status"] == status]
        doubts = [f"{c['status'].upper()} {c['name']}: {c['hint']}" for c in loud]
        quiet = [f"{sum(c['status'] == 'ok' for c in self.checks)} checks ok"] if self.checks else []
        return "\n".join([head, *rows, *stopped, *self.notes, *doubts, *quiet])


def audit(
    forward: Callable[..., Array],
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
    keep_images: bool = False,
    precision: str = "float32",
    batch_size: int | None = None,
    budget: str = "",
    path: str | Path | None = None,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> Result:
    """Attacks a model, and doubts the result.

    Args:
      forward: `forward(x)`, or `forward(v, x)` if `variables` are given: x [B, H, W, C] in [0, 1] -> logits [B, K]. A
        model that draws noise takes a key as its last argument, and `randomized=True` announces it.
      images: [N, H, W, C], floats in [0, 1] or uint8.
      labels: int [N] in [0, K).
      norm: "linf", "l2" or "l1".
      eps: radius in units of the [0, 1] pixel range, "8/255" or a number.
      attacks: names, or one string with commas: "autoattack" (for a randomized model its version "rand"),
        "autoattack(version=plus)", and any registered attack with its settings, as "pgd(steps=100,restarts=5)".
      variables: passed to `forward` as an argument, so that many checkpoints share one compilation.
      twin: variables of the undefended model, for the checks that compare.
      training_attacks: names of the attacks the model was trained on, if they are known.
      published: (data set, architecture), to compare with the best published figure.
      checks: whether to doubt; that costs some attacks on at most 128 examples.
      keep_images: whether the adversarial images come back; those of a cascade are x itself while it stands.
      precision: "bfloat16" attacks a copy of the model in bfloat16 (needs `variables`); success counts in float32 only.
      batch_size: images per batch; None: the fastest, found by trying.
      budget: most time of a cascade in this call ("90s", "10m", "2h") or most passes per image ("2000passes").
      path: a file where a cascade keeps its progress: the same call goes on from it, inside an attack too.
      seed: of all randomness.
      say: hears lines of progress, for example `print`.

    Raises ValueError, one line, for wrong shapes, types, labels or settings. A model that gives NaN, or images that are
    not in [0, 1], raise nothing: they fail a check.
    """
    started, radius = time.monotonic(), spec.unit(eps, "eps", norm)
    limit = cascade.Budget(*spec.budget(budget))
    images, labels = bare.checked(np.asarray(images), np.asarray(labels))
    mesh = sharding.data_mesh()
    evaluator = copy.copy(bare.evaluator_of(forward, variables is not None, randomized, precision))
    problem = cascade.Problem(
        evaluator=evaluator,
        variables=sharding.put(variables, sharding.replicated(mesh)),
        images=images,
        labels=labels,
        index=np.arange(len(images)),
        num_classes=bare.num_classes(evaluator, variables, images, labels),
        key=jax.random.key(seed),
        multiple=mesh.size,
    )
    plan = _plan(attacks, norm, radius, problem.num_classes, "rand" if randomized else "standard")
    result = Result(norm, radius)
    if why := bare.no_derivative(problem):
        result.notes.append(f"the model has no derivative ({why}): attacks without gradients only")
        plan = [_without_gradients(wanted, norm, radius) for wanted in plan]

    wanted_size = batch_size or (cascade.SMALLEST if why else bare.fastest_batch(problem))
    evaluator.batch_size = cascade.sizes(wanted_size, mesh.size)[-1]
    result.correct["clean"] = evaluator.predict(problem.variables, images, problem.key) == labels
    for wanted in plan:
        result.notes += wanted.notes
        if wanted.cascade:
            finding = autoattack.run(
                problem,
                wanted.attacks,
                path=Path(path) if path else None,
                keep_images=keep_images,
                batch_size=evaluator.batch_size,
                budget=limit,
                heard=autoattack.lines(say) if say else lambda progress: None,
            )
            _add_cascade(result, finding)
        for attack in () if wanted.cascade else wanted.attacks:
            _add_single(result, problem, attack, keep_images)
    if checks:
        few = np.unique(np.linspace(0, len(images) - 1, min(FEW, len(images))).astype(int))  # labels may be sorted
        subject = Subject(
            evaluator=evaluator.lenient(cascade.sizes(len(few), mesh.size)[-1]),
            variables=problem.variables,
            images=pixels(images[few]),
            labels=labels[few],
            index=few,
            num_classes=problem.num_classes,
            norm=norm,
            eps=radius,
            key=problem.key,
            named=lambda text, eps: arsenal.attack_at(text, norm, eps),
            records=result.correct,
            training_attacks=training_attacks,
            twin=sharding.put(twin, sharding.replicated(mesh)),
            published=published,
        )
        result.checks += examine(subject)
    result.seconds = time.monotonic() - started
    return result


class Wanted(NamedTuple):
    """One entry of `attacks`."""

    attacks: list[NamedAttack]
    notes: list[str]
    cascade: bool


def _plan(attacks: Sequence[str] | str, norm: str, eps: float, num_classes: int, version: str) -> list[Wanted]:
    """What is asked for, as attacks; ValueError for what cannot run, before anything does."""
    texts = spec.items(attacks) if isinstance(attacks, str) else tuple(attacks)
    if not texts:
        raise ValueError("attacks is empty; write for example autoattack")
    plan = []
    for text in texts:
        if spec.parse(text)[0] == "autoattack":
            asked = arsenal.autoattack_version(text, version)
            arsenal.check_names(texts, asked)
            plan.append(Wanted(*arsenal.autoattack(asked, norm, eps, num_classes), True))
        else:
            plan.append(Wanted([arsenal.attack_at(text, norm, eps)], [], False))
    return plan


def _without_gradients(wanted: Wanted, norm: str, eps: float) -> Wanted:
    """What is left of an entry without the attacks that climb; of a cascade at least Square, else it would be none."""
    left = [named for named in wanted.attacks if named.attack.forward_only]
    return wanted._replace(attacks=left or [arsenal.attack_at("square", norm, eps)] * wanted.cascade)


def _add_cascade(result: Result, finding: autoattack.Finding) -> None:
    result.correct |= finding.records
    result.passes |= {
        name: {"forward": finding.forward[name], "backward": finding.backward[name]} for name in finding.forward
    }
    if finding.adversarial is not None:
        result.adversarial["autoattack"] = finding.adversarial
    result.complete &= finding.complete


def _add_single(result: Result, on: cascade.Problem, named: NamedAttack, keep_images: bool) -> None:
    keep = len(on.images) if keep_images else 0
    outcome = on.evaluator.attack(on.variables, on.images, on.labels, named, key=on.key, index=on.index, keep=keep)
    result.correct[named.name] = outcome.correct
    each = np.array(named.attack.passes(named.cfg, on.num_classes)) * named.attack.num_steps(named.cfg)
    result.passes[named.name] = {
        way: np.full(len(on.images), n) for way, n in zip(("forward", "backward"), each, strict=True)
    }
    if keep_images:
        result.adversarial[named.name] = outcome.adversarial
