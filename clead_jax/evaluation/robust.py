"""Robust accuracy of any JAX classifier, example by example.

    evaluator = Evaluator(forward)                       # forward(variables, x [B, H, W, C] in [0, 1]) -> logits [B, K]
    outcome = evaluator.attack(variables, images, labels, pgd, key=jax.random.key(0))
    outcome.correct.mean()

Nothing here knows of training, configs or work directories. An attack reports no success of its own: what it returns
is shown to the model again, measured against the ball, and only then counted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.types import Array, IterativeAttack, Key, Objective, PyTree

Place = Callable[[Any], Array]
"""Puts one batch [B, ...] on the devices."""


class NamedAttack(NamedTuple):
    """An attack ready to run. `cfg` has `norm`; `eps` too unless the attack looks for the smallest perturbation.

    Whatever an attack finds counts only within `radius`, the threat model's eps.
    """

    name: str
    attack: IterativeAttack
    objective: Objective
    cfg: Any
    radius: float = float("inf")


class Outcome(NamedTuple):
    """What is left after an attack. All arrays have one row per image given."""

    correct: np.ndarray  # bool [N]: right on the clean image and on the attacked one
    distance: np.ndarray  # float32 [N]: size of the perturbation in the attack's norm
    adversarial: np.ndarray  # float32 [n, H, W, C]: what the attack made of the first n images
    prediction: np.ndarray  # int [N]: the class the model gives the attacked image


def norm_of(difference: np.ndarray, norm: str) -> np.ndarray:
    """Norms [N] of differences [N, ...]; `norm` is linf, l2 or l1."""
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    return np.linalg.norm(difference.reshape(len(difference), -1), ord=order, axis=1).astype(np.float32)


class Evaluator:
    """Attacks models that share one `forward(variables, x)`; every program is compiled once, whatever the weights.

    Batches are padded to `batch_size` rows by repeating the first, so that no image is dropped and no shape changes.
    On CPU an attack advances one step per dispatch (gradients of convolutions are slow inside compiled loops there);
    elsewhere ten. An attack of forward passes only advances a hundred anywhere.
    """

    def __init__(
        self,
        forward: Callable[[PyTree, Array], Array],
        batch_size: int = 256,
        place: Place = jnp.asarray,
        fetch: Callable[[Any], Any] = jax.device_get,
    ):
        self._forward, self._batch_size, self._place, self._fetch = forward, batch_size, place, fetch
        self._predict = jax.jit(lambda variables, x: forward(variables, x).argmax(-1))
        self._compiled: dict[tuple, tuple] = {}

    def predict(self, variables: PyTree, images: np.ndarray) -> np.ndarray:
        """The predicted class int [N] of images [N, H, W, C] (uint8, or floats in [0, 1])."""
        return np.concatenate(
            [
                self._fetch(self._predict(variables, self._place(pixels(images[rows]))))[:size]
                for rows, size in _batches(len(images), self._batch_size)
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
        parts = []
        for rows, size in _batches(len(images), self._batch_size):
            x = pixels(images[rows])
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(index[rows]))
            outcome = self._attack_batch(variables, x, labels[rows], keys, named)
            parts.append(Outcome(*(leaf[:size] for leaf in outcome)))
            if on_batch:
                correct = np.concatenate([p.correct for p in parts])
                on_batch(len(correct), float(correct.mean()))
        whole = Outcome(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))
        return whole._replace(adversarial=whole.adversarial[:keep])

    def _attack_batch(
        self, variables: PyTree, x: np.ndarray, labels: np.ndarray, keys: Key, named: NamedAttack
    ) -> Outcome:
        placed, targets = self._place(x), self._place(labels.astype(np.int32))
        x_adv = self._run(variables, placed, targets, self._place(keys), named)
        clean, found = self._fetch((self._predict(variables, placed), self._predict(variables, x_adv)))
        image = np.asarray(self._fetch(x_adv))
        if not np.isfinite(image).all():
            raise FloatingPointError(f"attack {named.name} met a gradient that is no finite number")
        distance = norm_of(image - x, named.cfg.norm)
        if not (distance <= _rounded_up(getattr(named.cfg, "eps", np.inf))).all() or image.min() < 0 or image.max() > 1:
            raise RuntimeError(
                f"attack {named.name} left its ball: distance {distance.max()}, pixels {image.min()}..{image.max()}"
            )
        broken = (found != labels) & (distance <= _rounded_up(named.radius))
        return Outcome((clean == labels) & ~broken, distance, image, found)

    def _run(self, variables: PyTree, x: Array, target: Array, keys: Key, named: NamedAttack) -> Array:
        init, advance, result = self._compile(named.attack, named.objective)
        state = init(variables, x, target, keys, named.cfg)
        steps, chunk = named.attack.num_steps(named.cfg), _chunk(named.attack)
        for done in range(0, steps, chunk):
            state = advance(variables, state, named.cfg, min(chunk, steps - done))
        return result(state)

    def _compile(self, attack: IterativeAttack, objective: Objective) -> tuple:
        if (attack, objective) not in self._compiled:
            bind = lambda variables: lambda x: self._forward(variables, x)

            def advance(variables: PyTree, state: PyTree, cfg: Any, count: int) -> PyTree:
                body = lambda _, s: attack.step(bind(variables), objective, s, cfg)
                return body(0, state) if _chunk(attack) == 1 else jax.lax.fori_loop(0, count, body, state)

            self._compiled[attack, objective] = (
                jax.jit(lambda v, x, t, k, cfg: attack.init(bind(v), objective, x, t, k, cfg)),
                jax.jit(advance, donate_argnums=1),
                jax.jit(attack.result),
            )
        return self._compiled[attack, objective]


def _rounded_up(radius: float) -> float:
    """The radius, and what float32 may add to it."""
    return radius * (1 + 1e-5) + 1e-6


def _chunk(attack: IterativeAttack) -> int:
    """How many steps one dispatch makes."""
    if attack.forward_only:
        return 100
    return 1 if jax.default_backend() == "cpu" else 10


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 images become float32 in [0, 1]; floats stay as they are."""
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)


def _batches(n: int, batch_size: int) -> list[tuple[np.ndarray, int]]:
    """(rows [batch_size], how many of them are real) for each batch; the last is padded with row 0 of itself."""
    rows = [np.arange(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    return [(np.concatenate([r, np.full(batch_size - len(r), r[0])]), len(r)) for r in rows]
