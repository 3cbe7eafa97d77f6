"""APGD: projected gradient ascent with adaptive step sizes (Croce & Hein 2020, arXiv 2003.01690, algorithm 1).

    repeat:  x_adv <- project(a step along the gradient);  at checkpoints: shorter steps, from the best point so far

A run is `steps` such steps from one random start, and one more gradient at the last point (see `apgd_steps`). With
`widen` it has three stages, in balls of 3, 2 and 1 times eps, each from the best point of the one before (arXiv
2103.01208, section 3), as AutoAttack does in L1. With `targets` an attack is as many runs, each towards another wrong
class, the likeliest first. Stages, runs and restarts depend on the row's own step counter alone, so rows can be
dropped, gathered and resumed at any step.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.attacks import norms
from clead_jax.attacks.apgd_steps import HALVING, SPARSE, Look, Point, Rule
from clead_jax.attacks.best_so_far import Best, nothing_yet, per_row, select
from clead_jax.attacks.objectives import (
    ascent,
    cross_entropy,
    dlr,
    fooled,
    in_turn,
    likeliest_others,
    probability_margin,
)
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Array, Forward, Iterative, Key, Objective, PyTree, Targeted


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class APGDConfig:
    """Settings of APGD; the defaults are AutoAttack's. A pytree: the float is traced by jit. Raises ValueError for an
    unknown norm, a negative eps, counts below their minimum, restarts without random start.
    """

    eps: float = 8 / 255  # radius of the ball, in pixels of [0, 1]
    norm: str = jax.tree.static(default="linf")
    steps: int = jax.tree.static(default=100)  # per run
    random_start: bool = jax.tree.static(default=True)
    restarts: int = jax.tree.static(default=1)  # of all runs, from other random starts
    targets: int = jax.tree.static(default=0)  # likeliest wrong classes, one run each; 0: away from the label
    widen: bool = jax.tree.static(default=False)  # three stages, see above
    eot: int = jax.tree.static(default=1)  # gradients to average, for a `forward` that draws noise at every call

    def __post_init__(self) -> None:
        norms.check_settings(self, eps=0, steps=1, restarts=1, targets=0, eot=1)
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts={self.restarts} needs random_start=True")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TargetedAPGDConfig(APGDConfig):
    """APGD towards one class after the other; the 9 likeliest in AutoAttack."""

    targets: int = jax.tree.static(default=9)

    def __post_init__(self) -> None:
        super().__post_init__()
        norms.check_settings(self, targets=1)


class State(NamedTuple):
    """The current point of every example, and the search so far. Every leaf is [B, ...]."""

    x: Array
    target: PyTree
    goals: Array | None  # int32 [B, T], the class of each run; None without `targets`
    key: Key
    made: Array  # int32 [B], steps so far
    x_adv: Array  # the next point
    best: Point  # of this stage, by the objective
    memory: PyTree  # state of the step rule
    answer: Best


def likeliest(forward: Forward, x: Array, labels: Array, cfg: APGDConfig) -> Array:
    """All wrong classes [B, K - 1] of images x [B, ...] with labels int [B], the likeliest first."""
    outputs = forward(x)
    return likeliest_others(outputs, labels, outputs.shape[-1])


def init(
    forward: Forward,
    objective: Objective,
    x: Array,
    target: PyTree,
    keys: Key,
    cfg: APGDConfig,
    order: Callable[..., Array] = likeliest,
) -> State:
    """The state before the first step. x [B, ...] in [0, 1], keys [B] typed; `order` ranks the wrong classes.

    Raises ValueError if `target` is labels and the model has no more classes than `targets`.
    """
    made = jnp.zeros_like(per_row(x), jnp.int32)
    goals = _goals(order, forward, x, target, cfg) if cfg.targets else None
    best = Point(x, x, per_row(x))
    start = _start(keys, made, x, cfg)
    return State(x, target, goals, keys, made, start, best, _rule(cfg).init(x), nothing_yet(x))


def step(forward: Forward, objective: Objective, state: State, cfg: APGDConfig) -> State:
    """One gradient: evaluates the current point and moves to the next."""
    rule, (since, period, radius) = _rule(cfg), _planned(cfg, state.made)
    gradient, values, outputs = _ascent(forward, objective, state, cfg)
    here = Point(state.x_adv, gradient, values)
    best = select((since == 0) | (values > state.best.value), here, state.best)
    look = Look(state.x, here, best, cfg.eps * radius, since, period)
    memory, back = rule.review(state.memory, look)
    memory, x_adv = rule.move(memory, look._replace(here=select(back, best, here)), cfg.norm)
    fools, final_stage = fooled(outputs, state.target), radius == 1
    better = fools | (~state.answer.fooled & (values > state.answer.value))  # the last that fools, else the highest
    answer = select(final_stage & better, Best(state.x_adv, values, fools), state.answer)
    state = state._replace(made=state.made + 1, x_adv=x_adv, best=best, memory=memory, answer=answer)
    return _begin_anew(state, cfg)


def result(state: State) -> Array:
    """x_adv [B, ...]: the last point that fooled the model, or else the one with the highest objective."""
    return state.answer.x_adv


def done(state: State) -> Array:
    """Rows [B] that already fool the model."""
    return state.answer.fooled


def num_steps(cfg: APGDConfig) -> int:
    """Steps per example; each costs `eot` gradients."""
    return max(cfg.targets, 1) * cfg.restarts * len(_plan(cfg))


def _plan(cfg: APGDConfig) -> np.ndarray:
    """The steps of a run as static rows (since, period, radius in units of eps): see `apgd_steps.Look`."""
    rows: list[tuple[int, int, int]] = []
    for radius, steps in _stages(cfg):
        lengths = _rule(cfg).checkpoints(steps)
        periods = np.zeros(steps + 1, int)  # the first one of a stage only evaluates the start
        periods[np.cumsum(lengths)] = lengths
        rows += [(since, int(period), radius) for since, period in enumerate(periods)]
    return np.array(rows, np.int32)


def _stages(cfg: APGDConfig) -> list[tuple[int, int]]:
    """(radius in eps, steps) of the stages of a run."""
    most = (cfg.steps - 1) // 2  # at least one step is left for the last stage
    early = min(round(0.3 * cfg.steps), most) if cfg.widen else 0
    return [(radius, n) for radius, n in ((3, early), (2, early), (1, cfg.steps - 2 * early)) if n]


def _planned(cfg: APGDConfig, made: Array) -> Array:
    """The row of the plan for every example, as three arrays [B]."""
    plan = _plan(cfg)
    return jnp.asarray(plan)[made % len(plan)].T


def _rule(cfg: APGDConfig) -> Rule:
    return SPARSE if cfg.norm == "l1" else HALVING


def _goals(order: Callable[..., Array], forward: Forward, x: Array, target: PyTree, cfg: APGDConfig) -> Array:
    """Target classes [B, T], the first in the order; for `Targeted` its goal alone."""
    if isinstance(target, Targeted):
        return target.goal[:, None]
    ranked = order(forward, x, target, cfg)
    if ranked.shape[-1] < cfg.targets:
        raise ValueError(f"{cfg.targets} targets need {cfg.targets + 1} classes, the model has {ranked.shape[-1] + 1}")
    return ranked[:, : cfg.targets]


def _aim(state: State, cfg: APGDConfig) -> PyTree:
    """The target of the objective: the attack's, or the class of this run."""
    if state.goals is None:
        return state.target
    label = state.target.label if isinstance(state.target, Targeted) else state.target
    return Targeted(label, in_turn(state.goals, state.made // len(_plan(cfg))))


def _ascent(forward: Forward, objective: Objective, state: State, cfg: APGDConfig) -> tuple[Array, Array, Array]:
    """The mean gradient and value over `eot` calls of `forward`, and the outputs of the last."""
    # A Python loop, so that `forward` is called `eot` times; if it is deterministic the compiler merges the calls.
    looks = [ascent(forward, objective, state.x_adv, _aim(state, cfg)) for _ in range(cfg.eot)]
    gradients, values, outputs = zip(*looks, strict=True)
    return sum(gradients) / cfg.eot, sum(values) / cfg.eot, outputs[-1]


def _start(keys: Key, run: Array, x: Array, cfg: APGDConfig) -> Array:
    if not cfg.random_start:
        return x
    radius = _stages(cfg)[0][0]
    return norms.start(jax.vmap(jax.random.fold_in)(keys, run), x, cfg.eps * radius, cfg.norm)


def _begin_anew(state: State, cfg: APGDConfig) -> State:
    """If the next step begins a run: a new start. If it begins another stage: the best point of the last one."""
    plan = _plan(cfg)
    run, position = jnp.divmod(state.made, len(plan))
    x_adv = state.x_adv
    if len(_stages(cfg)) > 1:
        since, _, radius = _planned(cfg, state.made)
        smaller = norms.project(state.best.x_adv, state.x, norms.column(cfg.eps * radius, state.x), cfg.norm)
        x_adv = select(since == 0, smaller, x_adv)
    if len(plan) < num_steps(cfg):
        x_adv = select(position == 0, _start(state.key, run, state.x, cfg), x_adv)
    return state._replace(x_adv=x_adv)


def passes(cfg: APGDConfig, classes: int) -> tuple[int, int]:
    """Forward and backward passes of a step."""
    return cfg.eot, cfg.eot


def init_passes(cfg: APGDConfig, classes: int) -> tuple[int, int]:
    """Forward and backward passes before the first step: those that order the targets."""
    return int(cfg.targets > 0), 0


APGD = Iterative(init, step, result, done, num_steps, passes=passes, init_passes=init_passes)
ATTACKS.register("apgd_ce", APGDConfig, objective=cross_entropy)(APGD)
ATTACKS.register("apgd_dlr", APGDConfig, objective=dlr)(APGD)
ATTACKS.register("apgd_t", TargetedAPGDConfig, objective=dlr)(APGD)
ATTACKS.register("pma", APGDConfig, objective=probability_margin)(APGD)
