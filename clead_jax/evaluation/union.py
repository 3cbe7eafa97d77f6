"""How robust is a JAX model in several norms at once? An image counts only if it withstands the attacks in all of them.

result = clead_jax.union(forward, images, labels, norm="linf,l2,l1", eps="8/255,0.5,12")
print(result)                          # a row per norm and one for all
result.correct["union"]                # bool [N]
result.by_norm["l2"]                   # what `audit` gives
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clead_jax.attacks import norms
from clead_jax.core import names, spec
from clead_jax.core.types import Array, Classifier
from clead_jax.evaluation import inputs
from clead_jax.evaluation.audit import Result, audit, lines
from clead_jax.results.store import accuracies
from clead_jax.results.union import in_all


@dataclasses.dataclass
class Union:
    """What the audits in several norms found together; `by_norm` has each of them."""

    by_norm: dict[str, Result]

    @property
    def correct(self) -> dict[str, np.ndarray]:
        """Images [N] that are right: "clean", in every norm under all attacks, "union" in all norms."""
        every = {norm: result.correct.values() for norm, result in self.by_norm.items()}
        return {"clean": next(iter(self.by_norm.values())).correct["clean"], **in_all(every)}

    @property
    def accuracy(self) -> dict[str, float]:
        """The shares in [0, 1] of `correct`."""
        return accuracies(self.correct)["accuracy"]

    @property
    def interval95(self) -> dict[str, list[float]]:
        """The 95 % interval of each accuracy."""
        return accuracies(self.correct)["interval95"]

    @property
    def norm(self) -> str:
        """The norms, with commas."""
        return ",".join(self.by_norm)

    @property
    def eps(self) -> list[float]:
        """Their radii."""
        return [result.eps for result in self.by_norm.values()]

    @property
    def checks(self) -> list[dict[str, Any]]:
        """The checks made in each norm, as "<norm>/<name>"."""
        every = [(norm, each) for norm, result in self.by_norm.items() for each in result.checks]
        return [each | {"name": f"{norm}/{each['name']}"} for norm, each in every]

    @property
    def notes(self) -> list[str]:
        """Where an attack had to differ from its definition."""
        return [f"{norm}: {note}" for norm, result in self.by_norm.items() for note in result.notes]

    @property
    def complete(self) -> bool:
        """False: a budget ended first, and what was not attacked counts as correct."""
        return all(result.complete for result in self.by_norm.values())

    @property
    def corruptions(self) -> dict[str, Any]:
        """Accuracy under common corruptions, as in `Result`."""
        return next(iter(self.by_norm.values())).corruptions

    def __str__(self) -> str:
        head = "all norms together; an image counts only if it withstands every attack of a norm, in the union of all"
        return "\n\n".join([*map(str, self.by_norm.values()), "\n".join([head, *lines(self.correct)])])


def union(
    forward: Classifier | Callable[..., Array],
    images: np.ndarray,
    labels: np.ndarray,
    norm: Sequence[str] | str = "linf,l2,l1",
    eps: Sequence[str | float] | str = "8/255,0.5,12",
    attacks: Sequence[str] | str = ("autoattack",),
    *,
    path: str | Path | None = None,
    **settings: Any,
) -> Union:
    """Audits a model in several norms, one after the other.

    Args:
      forward, images, labels: as `audit` takes them.
      norm: norms, each once.
      eps: as many radii, in the same order. The defaults are those usual on images of 32 x 32 x 3 pixels.
      attacks: as `audit` takes them, the same in each norm.
      path: a file where autoattack keeps its progress, one for each norm: FILE becomes FILE-linf and so on.
      settings: any other of `audit`; a budget in time is that of each norm.

    Raises ValueError, one line, for norms and radii that do not fit, before anything is measured, and as `audit` does.
    """
    norm, eps = (given if isinstance(given, str) else ",".join(map(str, given)) for given in (norm, eps))
    threats, size = names.threats(norm, eps), inputs.checked_examples(images, labels).images[0].size
    for name, radius in threats:
        norms.check(name)
        spec.unit(radius, "eps", name, size)
    paths = {name: f"{path}-{name}" if path else None for name, _ in threats}
    found: dict[str, Result] = {}
    for name, radius in threats:
        found[name] = audit(forward, images, labels, name, radius, attacks, path=paths[name], **settings)
        settings["corruptions"] = False  # they know no norm
    return Union(found)
