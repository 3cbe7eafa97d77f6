"""Robust accuracy of any JAX classifier, example by example.

    evaluator = Evaluator(forward)                       # forward(variables, x [B, H, W, C] in [0, 1]) -> logits [B, K]
    outcome = evaluator.attack(variables, images, labels, pgd, key=jax.random.key(0))
    outcome.correct.mean()

Nothing here knows of training, configs or work directories. An attack reports no success of its own: what it returns
is shown to the model again, measured against the ball, and only then counted.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.core.types import Array, Key, PyTree
from clead_jax.evaluation.classifier import NamedAttack, Programs, chunk

Place = Callable[[Any], Array]
"""Puts one batch [B, ...] on the devices."""

__all__ = ["Evaluator", "NamedAttack", "Outcome", "Place", "norm_of", "pixels", "verdict"]


class Outcome(NamedTuple):
    """What is left after an attack. All arrays have one row per image given."""

    correct: np.ndarray  # bool [N]: right on the clean image and on the attacked one
    distance: np.ndarray  # float32 [N]: size of the perturbation in the attack's norm
    adversarial: np.ndarray  # float32 [n, H, W, C]: what the attack made of the first n images
    prediction: np.ndarray  # int [N]: the class the model gives the attacked image, -1 for NaN


class Evaluator:
    """Attacks models that share one forward; every program is compiled once, whatever the weights.

    Batches are padded to `batch_size` rows by repeating the first, so that no image is dropped and no shape changes.
    An attack that meets NaN raises FloatingPointError, one that leaves its ball RuntimeError; if not `strict`, such an
    image counts as no success.
    """

    def __init__(
        self,
        forward: Callable[..., Array],
        batch_size: int = 256,
        place: Place = jnp.asarray,
        fetch: Callable[[Any], Any] = jax.device_get,
        *,
        randomized: bool = False,
        inside: Callable[..., Array] | None = None,
        strict: bool = True,
    ):
        self.programs, self.batch_size = Programs(forward, randomized, inside), batch_size
        self.place, self.fetch, self.strict = place, fetch, strict

    def lenient(self, most: int) -> "Evaluator":
        """The same programs, not strict, in batches of at most so many images."""
        other = copy.copy(self)
        other.strict, other.batch_size = False, min(most, self.batch_size)
        return other

    def predict(self, variables: PyTree, images: np.ndarray, key: Key | None = None) -> np.ndarray:
        """The predicted class int [N] of images [N, H, W, C] (uint8, or floats in [0, 1]); -1 where an output is NaN.

        `key` matters to a model that draws noise only.
        """
        key = jax.random.key(0) if key is None else key
        return np.concatenate(
            [
                self.fetch(self.programs.predict(variables, self.place(pixels(images[rows])), key))[:size]
                for rows, size in batches(len(images), self.batch_size)
            ]
        )

    def attack(
        self,
        variables: PyTree,
        images: np.ndarray,
        labels: np.ndarray,
        named: NamedAttack,
        *,
        key: Key,
        index: np.ndarray | None = None,
        keep: int = 0,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> Outcome:
        """Attacks every image and says which ones still stand.

        `index` [N] are the examples' places in their data set: they, and not the batch, decide the random starts.
        `keep` is how many adversarial images come back; `on_batch` hears (images done, share still correct).
        """
        index = np.arange(len(images)) if index is None else index
        parts: list[Outcome] = []
        for rows, size in batches(len(images), self.batch_size):
            keys = example_keys(key, index[rows])
            outcome = self._attack_batch(variables, pixels(images[rows]), labels[rows], keys, named, key)
            outcome = Outcome(*(leaf[:size] for leaf in outcome))
            wanted = max(0, keep - sum(len(p.adversarial) for p in parts))
            parts.append(outcome._replace(adversarial=outcome.adversarial[:wanted].copy()))  # a view would keep all
            if on_batch:
                correct = np.concatenate([p.correct for p in parts])
                on_batch(len(correct), float(correct.mean()))
        return Outcome(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))

    def _attack_batch(
        self, variables: PyTree, x: np.ndarray, labels: np.ndarray, keys: Key, named: NamedAttack, key: Key
    ) -> Outcome:
        placed, targets = self.place(x), self.place(labels.astype(np.int32))
        x_adv = self._run(variables, placed, targets, self.place(keys), named, key)
        predict = lambda x: self.programs.predict(variables, x, key)
        image, clean, found = self.fetch((x_adv, predict(placed), predict(x_adv)))
        if self.strict:
            refuse(named, x, image)
        broken, distance = verdict(named, x, image, found != labels)
        return Outcome((clean == labels) & ~broken, distance, image, found)

    def _run(self, variables: PyTree, x: Array, target: Array, keys: Key, named: NamedAttack, key: Key) -> Array:
        state = self.programs.init(named, variables, x, target, keys, key)
        steps, most = named.attack.num_steps(named.cfg), chunk(named.attack)
        for made in range(0, steps, most):
            state = self.programs.advance(named, variables, state, made, min(most, steps - made), key)
        return self.programs.result(named, state)[0]


def verdict(named: NamedAttack, x: np.ndarray, image: np.ndarray, fooled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which images [B] count as broken, how far they went [B]): fooled, finite, in [0, 1] and within the radius."""
    distance = norm_of(image - x, named.cfg.norm)
    flat = image.reshape(len(image), -1)
    allowed = (flat.min(1) >= 0) & (flat.max(1) <= 1) & (distance <= rounded_up(named.radius))  # false for NaN
    return fooled & allowed, distance


def refuse(named: NamedAttack, x: np.ndarray, image: np.ndarray) -> None:
    """Raises FloatingPointError for an attack that met NaN, RuntimeError for one that left its ball."""
    if not np.isfinite(image).all():
        raise FloatingPointError(f"attack {named.name} met a gradient that is no finite number")
    distance = norm_of(image - x, named.cfg.norm)
    if not (distance <= rounded_up(getattr(named.cfg, "eps", np.inf))).all() or image.min() < 0 or image.max() > 1:
        raise RuntimeError(
            f"attack {named.name} left its ball: distance {distance.max()}, pixels {image.min()}..{image.max()}"
        )


def norm_of(difference: np.ndarray, norm: str) -> np.ndarray:
    """Norms [N] of differences [N, ...]; `norm` is linf, l2 or l1."""
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    return np.linalg.norm(difference.reshape(len(difference), -1), ord=order, axis=1).astype(np.float32)


def rounded_up(radius: float) -> float:
    """The radius, and what float32 may add to it."""
    return radius * (1 + 1e-5) + 1e-6


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 images become float32 in [0, 1]; floats stay as they are."""
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)


def example_keys(key: Key, index: np.ndarray) -> Key:
    """One key per example [B], from its place in the data set."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(index))


def batches(n: int, batch_size: int) -> list[tuple[np.ndarray, int]]:
    """(rows [batch_size], how many of them are real) for each batch; the last is padded with row 0 of itself."""
    rows = [np.arange(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    return [(np.concatenate([r, np.full(batch_size - len(r), r[0])]), len(r)) for r in rows]
