"""Random noise, a baseline: the best of many points drawn uniformly from the ball, without gradients.

A gradient attack that is weaker than this baseline is a sign of masked gradients.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from clead_jax.attacks import norms
from clead_jax.attacks.best_so_far import Search, done, evaluate, nothing_yet, per_row, result
from clead_jax.attacks.objectives import margin
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Array, Forward, Iterative, Key, Objective, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """The number of points and the ball. A pytree: eps is traced by jit. Raises ValueError for an unknown norm, a
    negative eps and no points.
    """

    eps: float = 8 / 255  # radius of the ball, in pixels of [0, 1]
    norm: str = jax.tree.static(default="linf")
    points: int = jax.tree.static(default=100)

    random_start: ClassVar[bool] = True

    def __post_init__(self) -> None:
        norms.check_settings(self, eps=0, points=1)


def init(forward: Forward, objective: Objective, x: Array, target: PyTree, keys: Key, cfg: NoiseConfig) -> Search:
    """The state before the first point. x [B, ...] in [0, 1], keys [B] typed."""
    return Search(x, target, keys, jnp.zeros_like(per_row(x), jnp.int32), nothing_yet(x))


def step(forward: Forward, objective: Objective, state: Search, cfg: NoiseConfig) -> Search:
    """Draws one point."""
    x_adv = norms.start(jax.vmap(jax.random.fold_in)(state.key, state.made), state.x, cfg.eps, cfg.norm)
    return evaluate(forward, objective, state, x_adv)


NOISE = Iterative(init, step, result, done, lambda cfg: cfg.points, forward_only=True, passes=lambda *_: (1, 0))
ATTACKS.register("noise", NoiseConfig, objective=margin)(NOISE)
