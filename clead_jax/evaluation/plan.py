"""What an evaluation is asked to measure, of which models: plain values, and attacks ready to run."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from clead_jax.core import sharding
from clead_jax.core.batches import pixels
from clead_jax.core.progress import log
from clead_jax.core.types import Array, Examples, NamedAttack, PyTree, ThreatModel
from clead_jax.evaluation.budget import UNLIMITED, Budget
from clead_jax.evaluation.classifier import Compiled


class Subject(NamedTuple):
    """A model under the name it has in the results."""

    label: str
    model: Compiled
    identity: dict[str, Any]  # stage, step, fingerprint of the weights, ...
    features: Callable[[PyTree, Array], Array] | None = None  # (variables, images [n, H, W, C]) -> [n, F]
    suite: Compiled | None = None  # the same for AutoAttack, where that differentiates another forward

    def features_of(self, images: np.ndarray) -> np.ndarray:
        """Features [n, F] of images [n, H, W, C]. TypeError if it has none."""
        if self.features is None:
            raise TypeError(f"{self.label} has no features")
        return sharding.to_host(self.features(self.model.variables, jnp.asarray(pixels(images))))


class Suite(NamedTuple):
    """A version of AutoAttack. `notes` say where few classes change its definition."""

    version: str
    precision: str
    attacks: list[NamedAttack]
    notes: list[str]

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the result, as plain values for results.json."""
        each = {named.name: named.settings for named in self.attacks}
        return {"version": self.version, "precision": self.precision, "settings": each}


def spread(examples: Examples, count: int) -> Examples:
    """`count` examples, evenly spread: labels may be sorted."""
    chosen = np.unique(np.linspace(0, len(examples.labels) - 1, count).astype(int))
    return Examples(examples.images[chosen], examples.labels[chosen], examples.index[chosen])


@dataclass(frozen=True)
class Plan:
    """What is to be measured of every model."""

    threat_model: ThreatModel
    num_classes: int
    seed: int = 0
    direct: tuple[NamedAttack, ...] = ()  # each by itself
    transfer: tuple[NamedAttack, ...] = ()  # those whose images are made on one model and shown to all
    transfer_from: str = ""  # label of the model that transfer images are made on; empty: no transfer attacks
    suite: Suite | None = None
    curve_attack: NamedAttack | None = None  # with an infinite radius: its distances give the whole curve
    curve: tuple[float, ...] = ()  # radii
    curve_examples: int = 1000
    distances: tuple[NamedAttack, ...] = ()  # minimal-norm attacks
    distance_examples: int = 100
    corruptions: bool = False  # accuracy under common corruptions
    corruption_examples: int = 1000
    pictures: bool = False  # keep the first images and features for the report
    save_images: bool = False
    checks: bool = True
    check_steps: int = 20  # of PGD in the checks, each `check_step` times eps
    check_step: float = 0.25
    training_attacks: tuple[str, ...] | None = None  # names of the attacks trained on; None: not known
    undefended: str = ""  # label of the undefended model, for the checks that compare
    published: tuple[str, str] | None = None  # (data set, architecture), to look up published figures
    subset: Callable[[Examples, int], Examples] = spread
    batch_size: int = 256  # 0: the fastest, found by trying
    budget: Budget = UNLIMITED
    strict: bool = True  # non-finite numbers are errors; else they count as not broken and fail a check
    say: Callable[[str], None] = lambda line: log.info(f"evaluate: {line}")

    def work(self, images: int) -> int:
        """Passes of one model on so many images at most: an attack's forward or backward ones, whichever are more."""
        cost = lambda named: max(named.passes(self.num_classes))
        alone = [*self.direct, *(named for named in self.transfer if named not in self.direct)]
        found = images * sum(map(cost, [*alone, *(self.suite.attacks if self.suite else [])]))
        if self.curve_attack:
            runs = 1 if self.curve_attack.radius == math.inf else len(self.curve)
            found += runs * min(self.curve_examples, images) * cost(self.curve_attack)
        return found + min(self.distance_examples, images) * sum(map(cost, self.distances))

    @property
    def picture_attack(self) -> str:
        """The attack whose images the report shows: PGD as the config has it, else the first."""
        names = [named.name for named in self.direct]
        return "pgd" if "pgd" in names else next(iter(names), "")
