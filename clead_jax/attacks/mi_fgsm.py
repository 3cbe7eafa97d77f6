"""BIM and MI-FGSM: FGSM's step made often, each time shorter, from the image itself.

BIM (Kurakin et al. 2017, arXiv 1607.02533, section 2.2) is PGD without its random start. MI-FGSM (Dong et al. 2018,
arXiv 1710.06081, algorithm 1) moves along what the gradients have added up to,

    g <- decay * g + gradient / |gradient|_1,       x_adv <- project(ascend(x_adv, g))

and so is drawn less into the small local maxima that one model has and another has not: it is made for transfer.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from clead_jax.attacks import best_so_far as best_of
from clead_jax.attacks import norms
from clead_jax.attacks.objectives import ascent, cross_entropy
from clead_jax.attacks.pgd import GRADIENT, GradientConfig
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Array, Forward, Iterative, Key, Objective, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BIMConfig(GradientConfig):
    """Ten steps of one grey level, as its authors make for eps = 8/255."""

    step_size: float | None = 1 / 255
    steps: int = jax.tree.static(default=10)
    random_start: bool = jax.tree.static(default=False)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MIFGSMConfig:
    """Settings of MI-FGSM; the defaults are the paper's. A pytree; floats are traced by jit.

    Raises ValueError for an unknown norm, negative numbers and no steps.
    """

    eps: float = 8 / 255  # radius of the ball, in pixels of [0, 1]
    decay: float = 1.0  # of what the gradients have added up to; 0 is BIM
    norm: str = jax.tree.static(default="linf")
    steps: int = jax.tree.static(default=10)  # each as long as eps / steps

    def __post_init__(self) -> None:
        norms.check(self.norm)
        for name in ("eps", "decay"):
            value = getattr(self, name)
            if isinstance(value, float | int) and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


class State(NamedTuple):
    """Where every row is. Every leaf is [B, ...]."""

    x: Array
    x_adv: Array
    target: PyTree
    velocity: Array  # what the gradients have added up to
    best: best_of.Best


def init(forward: Forward, objective: Objective, x: Array, target: PyTree, keys: Key, cfg: MIFGSMConfig) -> State:
    """The state before the first step. x [B, ...] in [0, 1]. The attack is deterministic: keys are not used."""
    return State(x, x, target, jnp.zeros_like(x), best_of.nothing_yet(x))


def step(forward: Forward, objective: Objective, state: State, cfg: MIFGSMConfig) -> State:
    """One gradient: remember where we are if it is the best so far, then move on."""
    gradient, values, outputs = ascent(forward, objective, state.x_adv, state.target)
    best = best_of.keep_better(state.best, state.x_adv, values, outputs, state.target)
    size = jnp.sum(jnp.abs(gradient), axis=tuple(range(1, gradient.ndim)), keepdims=True)
    velocity = cfg.decay * state.velocity + gradient / jnp.where(size > 0, size, 1.0)
    x_adv = norms.ascend(state.x_adv, velocity, cfg.eps / cfg.steps, cfg.norm)
    return state._replace(x_adv=norms.project(x_adv, state.x, cfg.eps, cfg.norm), velocity=velocity, best=best)


def result(state: State) -> Array:
    """x_adv [B, ...]: the best point seen."""
    return state.best.x_adv


def done(state: State) -> Array:
    """Rows [B] that already fool the model."""
    return state.best.fooled


def num_steps(cfg: MIFGSMConfig) -> int:
    """Gradients taken per example; the last one only looks."""
    return cfg.steps + 1


ATTACKS.register("bim", BIMConfig, objective=cross_entropy)(GRADIENT)
ATTACKS.register("mi_fgsm", MIFGSMConfig, objective=cross_entropy)(Iterative(init, step, result, done, num_steps))
