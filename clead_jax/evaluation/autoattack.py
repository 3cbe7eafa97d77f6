"""AutoAttack (Croce & Hein 2020, arXiv 2003.01690): the cascade whose answer this field trusts.

What the attacks of its versions are is said in `arsenal`, how a cascade is driven in `evaluation.cascade`. Here is what
joins them: progress in a file, a fingerprint of what it belongs to, and the finding.
"""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from clead_jax.core import spec
from clead_jax.evaluation import resume as ledger
from clead_jax.evaluation import runner as cascade
from clead_jax.evaluation.resume import Ledger
from clead_jax.evaluation.runner import Budget, Problem, Progress
from clead_jax.evaluation.verify import NamedAttack, pixels


class Finding(NamedTuple):
    """What an AutoAttack left standing."""

    records: dict[str, np.ndarray]  # attack -> bool [N], standing after it; "autoattack": after all
    forward: dict[str, np.ndarray]  # attack -> int [N], passes
    backward: dict[str, np.ndarray]
    adversarial: np.ndarray | None  # float32 [N, H, W, C]; x itself where the example stands
    complete: bool  # False: the budget ended first
    seconds: float


def run(
    problem: Problem,
    attacks: Sequence[NamedAttack],
    *,
    path: Path | None = None,
    keep_images: bool = False,
    batch_size: int,
    budget: Budget = cascade.UNLIMITED,
    heard: Callable[[Progress], None] = lambda progress: None,
    clock: Callable[[], float] | None = None,
    writes: bool = True,
) -> Finding:
    """The attacks of a version of AutoAttack (`arsenal.autoattack`) on a problem.

    With `path` its progress is saved there about once a minute (by the process that `writes`), and a later call on the
    same model, images and attacks goes on from it, with the batch size it began with.
    """
    identity = _identity(problem, attacks)
    found = ledger.load(path, identity, keep_images) if path else None
    book = found or _begin(problem, identity, batch_size, keep_images)

    def save(book: Ledger, leaves: list[np.ndarray] | None) -> None:
        if path and writes:
            ledger.save(path, book, leaves)

    clocked = {"clock": clock} if clock else {}
    complete = cascade.run(problem, attacks, book, save=save, budget=budget, heard=heard, **clocked)
    records = book.records | {"autoattack": book.standing}
    return Finding(records, book.forward, book.backward, book.adversarial, complete, book.seconds)


def lines(say: Callable[[str], None], name: str = "", every: float = 5.0) -> Callable[[Progress], None]:
    """A listener that puts progress into words: at every new attack, and at most once in `every` seconds."""
    last: tuple[str, float] = "", 0.0

    def heard(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if progress.attack != last[0] or now - last[1] >= every:
            last = progress.attack, now
            known = progress.seconds_left < math.inf
            left = f", at most {spec.duration(progress.seconds_left)} left" if known else ""
            share = progress.standing / progress.total
            say(f"{name}{progress.attack}  {progress.standing}/{progress.total} standing ({share:.1%}){left}")

    return heard


def _begin(problem: Problem, identity: str, batch_size: int, keep_images: bool) -> Ledger:
    predicted = problem.evaluator.predict(problem.variables, problem.images, problem.key)
    images = pixels(problem.images) if keep_images else None
    return ledger.begin(identity, batch_size, predicted == problem.labels, images)


def _identity(problem: Problem, attacks: Sequence[NamedAttack]) -> str:
    """A fingerprint of everything the result depends on.

    A model is known by what it says of the first images, and by its gradients there if they are climbed.
    """
    evaluator, few = problem.evaluator, np.arange(cascade.sizes(1, problem.multiple)[0]) % len(problem.images)
    x = evaluator.place(pixels(problem.images[few]))
    logits = evaluator.fetch(evaluator.programs.logits(problem.variables, x, problem.key))
    climbing = [a.objective for a in attacks if not a.attack.forward_only]
    told: list[np.ndarray] = [logits]
    if climbing:
        labels = evaluator.place(problem.labels[few].astype(np.int32))
        told.append(
            evaluator.fetch(evaluator.programs.gradient(climbing[0], problem.variables, x, labels, problem.key))
        )
    settings = [[a.name, a.objective.__name__, dataclasses.asdict(a.cfg)] for a in attacks]
    digest = hashlib.sha256(json.dumps([settings, evaluator.programs.cheaper], default=str).encode())
    for array in (problem.images, problem.labels, problem.index, *told, jax.random.key_data(problem.key)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
