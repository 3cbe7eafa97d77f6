"""PGD as published training loops make it: from other starts, with noise, and with images that stop by themselves.

    repeat:  x_adv <- project(ascend(x_adv, gradient of the objective at x_adv) + noise),  for images that still move

An image makes `tau` further steps of those that `counts` counts, and then leaves with its current point:

    counts=errors   steps made where the model is wrong already: friendly adversarial training, early-stopped PGD
                    (FAT: Zhang et al. 2020, arXiv 2002.11242, Algorithm 1)
    counts=steps    all steps: an image has a number of its own (LAS-AT: Jia et al. 2022, arXiv 2203.06616)

The loop always makes `steps` steps: images that have left cost as much as before, and no batch is ragged. `eps`,
`step_size` and `tau` may be arrays with a value for each image. With the defaults it is PGD.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from clead_jax.attacks import norms, pgd
from clead_jax.attacks.best_so_far import per_row, select
from clead_jax.attacks.objectives import ascent, cross_entropy, fooled
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Array, Forward, Iterative, Key, Objective, PyTree

COUNTS = ("", "errors", "steps")
STARTS = ("uniform", "normal")
SIGMA = 0.001  # of the normal start: TRADES (arXiv 1901.08573), Algorithm 1; MART and FAT have it from there


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainingPGDConfig(pgd.GradientConfig):
    """Settings of PGD in training; the defaults are PGD-10 (Rice et al. 2020, arXiv 2002.11569, Sec. 3).

    A pytree whose floats are traced. Raises ValueError for an unknown norm, start or count, numbers out of range, and
    for restarts and keep="best", which it does not have.
    """

    steps: int = jax.tree.static(default=10)
    keep: str = jax.tree.static(default="last")
    start: str = jax.tree.static(default="uniform")  # in the ball, or "normal": 0.001 * N(0, 1) about the image
    start_eps: float | None = None  # radius of the uniform start; None: eps
    noise: float = jax.tree.static(default=0.0)  # standard deviation of what is added in each step
    counts: str = jax.tree.static(default="")  # the steps of which an image makes `tau`: errors, steps; "": none
    tau: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        norms.check_settings(self, noise=0, tau=0, start_eps=0)
        for field, known in (("start", STARTS), ("counts", COUNTS)):
            if (value := getattr(self, field)) not in known:
                raise ValueError(f"unknown {field} {value!r}: known: {', '.join(filter(None, known))}")
        if self.restarts > 1 or self.keep != "last":
            raise ValueError("training_pgd has no restarts and keeps the last point")


class State(NamedTuple):
    """The current point of every example. Every leaf is [B, ...]."""

    x: Array
    x_adv: Array
    target: PyTree
    key: Key  # [B]
    made: Array  # int32 [B], steps so far
    left: Array  # int32 [B], counted steps that an image still makes


def init(forward: Forward, objective: Objective, x: Array, target: PyTree, keys: Key, cfg: TrainingPGDConfig) -> State:
    """The state before the first step. x [B, ...] in [0, 1], keys [B] typed."""
    made = jnp.zeros_like(per_row(x), jnp.int32)
    return State(x, _start(_at(keys, made), x, cfg), target, keys, made, made + cfg.tau)


def step(forward: Forward, objective: Objective, state: State, cfg: TrainingPGDConfig) -> State:
    """One gradient; images that have made their counted steps stay where they are."""
    gradient, _, outputs = ascent(forward, objective, state.x_adv, state.target)
    counted = _counted(outputs, state, cfg)
    moves, made = ~counted | (state.left > 0), state.made + 1
    step_size = _of_row(cfg.eps if cfg.step_size is None else cfg.step_size, state.x)
    x_adv = norms.ascend(state.x_adv, gradient, step_size, cfg.norm)
    if cfg.noise:
        x_adv += cfg.noise * _normal(_at(state.key, made), state.x)
    x_adv = norms.project(x_adv, state.x, _of_row(cfg.eps, state.x), cfg.norm)
    left = state.left - (counted & moves)
    return state._replace(x_adv=select(moves, x_adv, state.x_adv), made=made, left=left)


def _counted(outputs: Array, state: State, cfg: TrainingPGDConfig) -> Array:
    """bool [B]: whether the step that is due is one of those of which an image makes `tau`."""
    if cfg.counts == "errors":
        return fooled(outputs, state.target)
    return jnp.full_like(state.left, cfg.counts == "steps", bool)


def _start(keys: Key, x: Array, cfg: TrainingPGDConfig) -> Array:
    if not cfg.random_start:
        return x
    eps = _of_row(cfg.eps, x)
    if cfg.start == "uniform":
        return norms.start(keys, x, eps if cfg.start_eps is None else cfg.start_eps, cfg.norm)
    return norms.project(x + SIGMA * _normal(keys, x), x, eps, cfg.norm)


def _normal(keys: Key, x: Array) -> Array:
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)


def _at(keys: Key, number: Array) -> Key:
    return jax.vmap(jax.random.fold_in)(keys, number)


def _of_row(value: float | Array, x: Array) -> float | Array:
    """One value for all images, or [B] as [B, 1, ...]."""
    return norms.column(jnp.asarray(value), x) if jnp.ndim(value) else value


def result(state: State) -> Array:
    """x_adv [B, ...]: the last point."""
    return state.x_adv


def done(state: State) -> Array:
    """No row [B]: the last point counts, so that all steps are made."""
    return jnp.zeros_like(state.made, bool)


TRAINING_PGD = Iterative(init, step, result, done, pgd.num_steps)
ATTACKS.register("training_pgd", TrainingPGDConfig, objective=cross_entropy, tunable=True, form_of="pgd")(TRAINING_PGD)
