"""MI-FGSM (Dong et al. 2018, arXiv 1710.06081, algorithm 1): PGD with momentum, from the image itself.

    g <- decay * g + gradient / |gradient|_1,       x_adv <- project(ascend(x_adv, g))

Momentum passes over small local maxima that differ from model to model, so the result transfers better.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from clead_jax.attacks import norms
from clead_jax.attacks.best_so_far import Best, done, keep_better, nothing_yet, result
from clead_jax.attacks.objectives import ascent, cross_entropy
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Array, Forward, Iterative, Key, Objective, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MIFGSMConfig:
    """Settings of MI-FGSM; the defaults are the paper's. A pytree; floats are traced by jit. Raises
    ValueError for an unknown norm, negative numbers and no steps.
    """

    eps: float = 8 / 255  # radius of the ball, in pixels of [0, 1]
    decay: float = 1.0  # factor of the momentum in each step; 0: none
    norm: str = jax.tree.static(default="linf")
    steps: int = jax.tree.static(default=10)  # of length eps / steps each

    def __post_init__(self) -> None:
        norms.check_settings(self, eps=0, decay=0, steps=1)


class State(NamedTuple):
    """The current point of every example. Every leaf is [B, ...]."""

    x: Array
    x_adv: Array
    target: PyTree
    velocity: Array  # the accumulated gradients, g above
    best: Best


def init(forward: Forward, objective: Objective, x: Array, target: PyTree, keys: Key, cfg: MIFGSMConfig) -> State:
    """The state before the first step. x [B, ...] in [0, 1]. The attack is deterministic: keys are not used."""
    return State(x, x, target, jnp.zeros_like(x), nothing_yet(x))


def step(forward: Forward, objective: Objective, state: State, cfg: MIFGSMConfig) -> State:
    """One gradient: keeps the current point if it is the best so far, then moves."""
    gradient, values, outputs = ascent(forward, objective, state.x_adv, state.target)
    best = keep_better(state.best, state.x_adv, values, outputs, state.target)
    size = norms.total(jnp.abs(gradient))
    velocity = cfg.decay * state.velocity + gradient / jnp.where(size > 0, size, 1.0)
    x_adv = norms.ascend(state.x_adv, velocity, cfg.eps / cfg.steps, cfg.norm)
    return state._replace(x_adv=norms.project(x_adv, state.x, cfg.eps, cfg.norm), velocity=velocity, best=best)


# One more gradient evaluates the last point.
MI_FGSM = Iterative(init, step, result, done, num_steps=lambda cfg: cfg.steps + 1)
ATTACKS.register("mi_fgsm", MIFGSMConfig, objective=cross_entropy)(MI_FGSM)
