"""Random noise, a baseline: the best of many points drawn uniformly from the ball, without gradients.

A gradient attack that is weaker than this baseline is a sign of masked gradients.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from clead_jax.attacks import norms
from clead_jax.attacks.best_so_far import Best, done, keep_better, nothing_yet, per_row, result
from clead_jax.attacks.objectives import margin
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Array, Forward, Iterative, Key, Objective, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """The number of points and the ball. A pytree: eps is traced by jit.

    Raises ValueError for an unknown norm, a negative eps and no points.
    """

    eps: float = 8 / 255  # radius of the ball, in pixels of [0, 1]
    norm: str = jax.tree.static(default="linf")
    points: int = jax.tree.static(default=100)

    random_start: ClassVar[bool] = True

    def __post_init__(self) -> None:
        norms.check_settings(self, eps=0, points=1)


class State(NamedTuple):
    """The best point so far. Every leaf is [B, ...]."""

    x: Array
    target: PyTree
    key: Key
    made: Array  # int32 [B], points so far
    best: Best


def init(forward: Forward, objective: Objective, x: Array, target: PyTree, keys: Key, cfg: NoiseConfig) -> State:
    """The state before the first point. x [B, ...] in [0, 1], keys [B] typed."""
    return State(x, target, keys, jnp.zeros_like(per_row(x), jnp.int32), nothing_yet(x))


def step(forward: Forward, objective: Objective, state: State, cfg: NoiseConfig) -> State:
    """Draws one point."""
    x_adv = norms.start(jax.vmap(jax.random.fold_in)(state.key, state.made), state.x, cfg.eps, cfg.norm)
    outputs = forward(x_adv)
    best = keep_better(state.best, x_adv, objective(outputs, state.target), outputs, state.target)
    return state._replace(made=state.made + 1, best=best)


NOISE = Iterative(init, step, result, done, lambda cfg: cfg.points, forward_only=True, passes=lambda *_: (1, 0))
ATTACKS.register("noise", NoiseConfig, objective=margin)(NOISE)
