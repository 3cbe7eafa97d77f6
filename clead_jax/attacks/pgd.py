"""FGSM, BIM, PGD and the C&W margin attack: one loop, four settings.

    repeat:  x_adv <- project(ascend(x_adv, gradient of the objective at x_adv))

One step of length eps from x itself is FGSM (Goodfellow et al. 2015, section 4). Several short steps from x are BIM,
from a random start PGD (Madry et al. 2018, section 2.1). PGD on the margin is Carlini & Wagner's loss inside a ball;
their minimum-distance attack is in `cw_l2`. With `keep="best"` the result is the best of all visited points, at the
cost of one more gradient, at the last point.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from clead_jax.attacks import norms
from clead_jax.attacks.best_so_far import Best, keep_better, nothing_yet, per_row, select
from clead_jax.attacks.objectives import ascent, cross_entropy, margin
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Array, Forward, Iterative, Key, Objective, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GradientConfig:
    """Settings of a gradient attack; the defaults are PGD-20 (Madry et al. 2018, CIFAR-10).

    A pytree whose floats are traced by jit: one program serves every eps of a curve. Raises ValueError for an unknown
    norm or `keep`, negative numbers, and restarts without a random start.
    """

    eps: float = 8 / 255  # radius of the ball, in pixels of [0, 1]
    step_size: float | None = 2 / 255  # None: eps
    norm: str = jax.tree.static(default="linf")
    steps: int = jax.tree.static(default=20)
    random_start: bool = jax.tree.static(default=True)
    restarts: int = jax.tree.static(default=1)  # runs from other random starts; the best counts
    keep: str = jax.tree.static(default="best")  # "best" point seen (needs labels), or "last"

    def __post_init__(self) -> None:
        norms.check_settings(self, eps=0, step_size=0, steps=1, restarts=1)
        if self.keep not in ("best", "last"):
            raise ValueError(f"unknown keep {self.keep!r}: known: best, last")
        if self.restarts > 1 and not (self.random_start and self.keep == "best"):
            raise ValueError(f"restarts={self.restarts} needs random_start=True and keep='best'")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FGSMConfig(GradientConfig):
    """One step of length eps from the image itself (Goodfellow et al. 2015)."""

    step_size: float | None = None
    steps: int = jax.tree.static(default=1)
    random_start: bool = jax.tree.static(default=False)
    keep: str = jax.tree.static(default="last")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BIMConfig(GradientConfig):
    """PGD without a random start (Kurakin et al. 2017, arXiv 1607.02533); steps of 1/255, as there for eps = 8/255."""

    step_size: float | None = 1 / 255
    steps: int = jax.tree.static(default=10)
    random_start: bool = jax.tree.static(default=False)


class State(NamedTuple):
    """The current point of every example. `best` is None unless the config keeps it."""

    x: Array  # [B, ...]
    x_adv: Array  # [B, ...]
    target: PyTree  # leaves [B, ...]
    key: Key  # [B]
    made: Array  # int32 [B], steps so far
    best: Best | None


def init(forward: Forward, objective: Objective, x: Array, target: PyTree, keys: Key, cfg: GradientConfig) -> State:
    """The state before the first step. x [B, ...] in [0, 1], keys [B] typed."""
    made = jnp.zeros_like(per_row(x), jnp.int32)
    best = nothing_yet(x) if cfg.keep == "best" else None
    return State(x, _start(keys, made, x, cfg), target, keys, made, best)


def step(forward: Forward, objective: Objective, state: State, cfg: GradientConfig) -> State:
    """One gradient: keeps the current point if it is the best so far, then moves."""
    state = _restart(state, cfg)
    gradient, values, outputs = ascent(forward, objective, state.x_adv, state.target)
    best = state.best and keep_better(state.best, state.x_adv, values, outputs, state.target)
    step_size = cfg.eps if cfg.step_size is None else cfg.step_size
    x_adv = norms.ascend(state.x_adv, gradient, step_size, cfg.norm)
    x_adv = norms.project(x_adv, state.x, cfg.eps, cfg.norm)
    return state._replace(x_adv=x_adv, made=state.made + 1, best=best)


def result(state: State) -> Array:
    """x_adv [B, ...]: the best point seen, or the last one where no best is kept."""
    return state.best.x_adv if state.best else state.x_adv


def done(state: State) -> Array:
    """Rows [B] that already fool the model."""
    return state.best.fooled if state.best else jnp.zeros_like(state.made, bool)


def num_steps(cfg: GradientConfig) -> int:
    """Gradients per example."""
    return cfg.restarts * _steps_per_start(cfg)


def _steps_per_start(cfg: GradientConfig) -> int:
    return cfg.steps + (cfg.keep == "best")


def _start(keys: Key, restart: Array, x: Array, cfg: GradientConfig) -> Array:
    if not cfg.random_start:
        return x
    return norms.start(jax.vmap(jax.random.fold_in)(keys, restart), x, cfg.eps, cfg.norm)


def _restart(state: State, cfg: GradientConfig) -> State:
    if cfg.restarts == 1:
        return state
    restart, since = jnp.divmod(state.made, _steps_per_start(cfg))
    fresh = _start(state.key, restart, state.x, cfg)
    return state._replace(x_adv=select(since == 0, fresh, state.x_adv))


GRADIENT = Iterative(init, step, result, done, num_steps)
ATTACKS.register("fgsm", FGSMConfig, objective=cross_entropy)(GRADIENT)
ATTACKS.register("bim", BIMConfig, objective=cross_entropy)(GRADIENT)
ATTACKS.register("pgd", GradientConfig, objective=cross_entropy, tunable=True)(GRADIENT)
ATTACKS.register("cw", GradientConfig, objective=margin, tunable=True)(GRADIENT)
