"""A model under doubt: what the checks may ask of it. They look at a few examples, through the same programs."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from clead_jax.core.types import Key, PyTree
from clead_jax.evaluation.classifier import NamedAttack
from clead_jax.evaluation.verify import Evaluator, Outcome, batches


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model, a few examples of it, and how to attack them."""

    evaluator: Evaluator  # not strict
    variables: PyTree
    images: np.ndarray  # float32 [n, H, W, C] as given: perhaps not in [0, 1]
    labels: np.ndarray  # int [n]
    index: np.ndarray  # int [n], places in the data set
    num_classes: int
    norm: str
    eps: float
    key: Key
    named: Callable[[str, float], NamedAttack]  # ("pgd(steps=40)", eps) -> attack; step sizes in proportion to eps
    records: Mapping[str, np.ndarray]  # attack -> bool [N] correct, on all examples; "clean" among them
    training_attacks: tuple[str, ...] | None = None  # names of the attacks trained on; None: not known
    twin: PyTree | None = None  # variables of the undefended model of the same architecture
    published: tuple[str, str] | None = None  # (data set, architecture), to look up published figures

    @property
    def white_from_black(self) -> float:
        """The norm of a change by 1 in every pixel: how far the corners of [0, 1] are apart."""
        pixels = self.images[0].size
        return {"linf": 1.0, "l2": pixels**0.5, "l1": float(pixels)}[self.norm]

    def attack(self, text: str, eps: float | None = None, twin: bool = False, draw: int = 0) -> Outcome:
        """The outcome of an attack, e.g. "pgd(steps=40)", all adversarial images kept. Asked again it is not rerun.

        Each `draw` starts elsewhere.
        """
        asked = (text, self.eps if eps is None else eps, twin, draw)
        if asked not in self._cache:
            self._cache[asked] = self.evaluator.attack(
                self.twin if twin else self.variables,
                self.images,
                self.labels,
                self.named(*asked[:2]),
                key=self._key(draw),
                index=self.index,
                keep=len(self.images),
            )
        return self._cache[asked]

    def predict(self, images: np.ndarray, draw: int = 0) -> np.ndarray:
        """The predicted class int [n] of images [n, H, W, C]; -1 where an output is NaN. Each `draw` is other noise."""
        return self.evaluator.predict(self.variables, images, self._key(draw))

    def logits(self, images: np.ndarray, draw: int = 0) -> np.ndarray:
        """What the model gives for images [n, H, W, C]: [n, K]. Each `draw` is other noise, if it draws any."""
        key = jax.random.fold_in(self.key, draw)
        return self._each(lambda x: self.evaluator.programs.logits(self.variables, x, key), images)

    def logits_compiled_anew(self, images: np.ndarray) -> np.ndarray:
        """As `logits`, by a program of its own: noise drawn in Python is another in every program."""
        judge = inspect.unwrap(self.evaluator.programs.logits)
        program = jax.jit(lambda *args: judge(*args))  # jit knows functions it has compiled before: hence a new one
        return self._each(lambda x: program(self.variables, x, jax.random.fold_in(self.key, 0)), images)

    def gradient(self, images: np.ndarray, draw: int = 0, climbed_by: str = "pgd") -> np.ndarray:
        """The gradient [n, H, W, C] of what an attack climbs, as it sees it: "pgd" cross entropy, "cw" the margin."""
        program, key = self.evaluator.programs.gradient, jax.random.fold_in(self.key, draw)
        objective = self.named(climbed_by, self.eps).objective
        return self._each(lambda x, y: program(objective, self.variables, x, y, key), images, self.labels)

    def logits_of_gradient(self, images: np.ndarray, draw: int = 0) -> np.ndarray:
        """As `logits`, with the noise that `gradient` has met at that draw."""
        key = jax.random.fold_in(jax.random.fold_in(self.key, draw), 0)
        return self._each(lambda x: self.evaluator.programs.logits(self.variables, x, key), images)

    def _key(self, draw: int) -> Key:
        return jax.random.fold_in(self.key, draw) if draw else self.key

    def _each(self, program: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
        evaluator, parts = self.evaluator, []
        for rows, size in batches(len(arrays[0]), evaluator.batch_size):
            parts.append(evaluator.fetch(program(*(evaluator.place(a[rows]) for a in arrays)))[:size])
        return np.concatenate(parts)

    @functools.cached_property
    def _cache(self) -> dict[Any, Outcome]:
        return {}
