"""What the sanity checks ask of a model, on a few examples; the form of their verdicts, and how much is chance."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from clead_jax.core.batches import pixels, sizes
from clead_jax.core.types import Array, Examples, Key, NamedAttack, PyTree, ThreatModel
from clead_jax.evaluation.classifier import Compiled
from clead_jax.evaluation.runner import Finding, run_attacks


@dataclasses.dataclass(frozen=True)
class CheckContext:
    """A model, a few examples, how to attack them, and what was recorded of all examples."""

    model: Compiled
    examples: Examples  # their images may lie outside [0, 1]
    num_classes: int
    threat_model: ThreatModel
    key: Key
    named: Callable[[str, float], NamedAttack]  # ("pgd(steps=40)", eps) -> attack; step sizes in proportion to eps
    records: Mapping[str, np.ndarray]  # attack -> bool [N] correct, on all examples; "clean" among them
    training_attacks: tuple[str, ...] | None = None  # names of the attacks trained on; None: not known
    undefended: Compiled | None = None  # the undefended model of the same architecture
    published: tuple[str, str] | None = None  # (data set, architecture), to look up published figures
    features: Callable[[PyTree, Array], Array] | None = None  # (variables, images) -> [B, F], what the last layer reads
    transferred: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # as records, of images made on
    # another model

    @functools.cached_property
    def images(self) -> np.ndarray:
        """float32 [n, H, W, C], as given."""
        return pixels(self.examples.images)

    @property
    def labels(self) -> np.ndarray:
        """int [n]."""
        return self.examples.labels

    @property
    def norm(self) -> str:
        """linf, l2 or l1."""
        return self.threat_model.norm

    @property
    def eps(self) -> float:
        """The radius."""
        return self.threat_model.eps

    @property
    def white_from_black(self) -> float:
        """The norm of a change by 1 in every pixel: how far the corners of [0, 1] are apart."""
        return {"linf": 1.0, "l2": self.images[0].size ** 0.5, "l1": float(self.images[0].size)}[self.norm]

    def attack(self, text: str, eps: float | None = None, undefended: bool = False, draw: int = 0) -> Finding:
        """What "pgd(steps=40)" or another leaves: all images, run to the end, once. Each `draw` starts elsewhere."""
        asked = (text, self.eps if eps is None else eps, undefended, draw)
        if asked not in self._cache:
            model, named = self.undefended if undefended else self.model, self.named(*asked[:2])
            assert model is not None
            whole: dict[str, Any] = {"num_classes": self.num_classes, "keep": len(self.labels), "early_stop": False}
            self._cache[asked] = run_attacks(model, self.examples, [named], key=self._key(draw), **whole)
        return self._cache[asked]

    def predict(self, images: np.ndarray, draw: int = 0) -> np.ndarray:
        """The predicted class int [n] of images [n, H, W, C]; -1 where an output is NaN. Each `draw` is other noise."""
        return self.model.predict(images, self._key(draw))

    def logits(self, images: np.ndarray, draw: int = 0) -> np.ndarray:
        """Logits [n, K] of images [n, H, W, C]. Each `draw` is other noise, if the model draws any."""
        return self.model.logits(images, jax.random.fold_in(self.key, draw))

    def logits_compiled_anew(self, images: np.ndarray) -> np.ndarray:
        """As `logits`, by a program of its own: noise drawn in Python is another in every program."""
        judge = inspect.unwrap(self.model.programs.logits)
        program = jax.jit(lambda *args: judge(*args))  # jit knows functions it has compiled before: hence a new one
        return self.model.each(lambda x: program(self.model.variables, x, jax.random.fold_in(self.key, 0)), images)

    def penultimate(self, images: np.ndarray) -> np.ndarray:
        """`features` [n, F] of images [n, H, W, C]; of a model that gives none its logits."""
        program = self.features
        if program is None:
            return self.logits(images)
        return self.model.each(lambda x: program(self.model.variables, x), images)

    def batch_of(self, count: int) -> int:
        """The smallest batch that holds so many rows on all devices."""
        return sizes(count, self.model.mesh.size)[-1]

    def gradient(self, images: np.ndarray, draw: int = 0, maximised_by: str = "pgd") -> np.ndarray:
        """The gradient [n, H, W, C] of an attack's objective, as it sees it: "pgd" cross entropy, "cw" the margin."""
        objective = self.named(maximised_by, self.eps).objective
        return self.model.gradient(objective, images, self.labels, jax.random.fold_in(self.key, draw))

    def logits_of_gradient(self, images: np.ndarray, draw: int = 0) -> np.ndarray:
        """As `logits`, with the noise that `gradient` has met at that draw."""
        return self.model.logits(images, jax.random.fold_in(jax.random.fold_in(self.key, draw), 0))

    def _key(self, draw: int) -> Key:
        return jax.random.fold_in(self.key, draw) if draw else self.key

    @functools.cached_property
    def _cache(self) -> dict[Any, Finding]:
        return {}


def check(name: str, status: str, value: Any, hint: str = "") -> dict[str, Any]:
    """As it stands in results.json. `status` is ok, warn, fail or skipped; `hint`, unless ok, what to do, or why."""
    return {"name": name, "status": status, "value": value, "hint": "" if status == "ok" else hint}


def slack(n: int, share: float = 0.03) -> float:
    """How many of n images one attack may find and a better one miss, by chance: at least 2."""
    return max(2.0, share * n)


def chance(labels: np.ndarray) -> float:
    """What a model that ignores its input can get right: the share of the commonest label."""
    return float(np.bincount(labels).max() / len(labels))


def margins(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """By how much the best wrong class leads, [n] from logits [n, K]: positive where misclassified, NaN for NaN."""
    logits = logits.astype(np.float64)
    right = labels[:, None] == np.arange(logits.shape[1])
    with np.errstate(invalid="ignore"):
        return np.where(right, -np.inf, logits).max(1) - np.where(right, logits, -np.inf).max(1)
