"""FAB, the fast adaptive boundary attack (Croce & Hein 2020, algorithm 1): the nearest image that fools the model.

For the linearised model the boundary to another class is the hyperplane f_goal - f_rival = 0. One iteration steps onto
the nearest one, from the current point and from the image itself, and mixes the two points. A point that fools the
model is kept if it is the nearest so far, and the search continues nearer to the image by the factor beta.

The search has no ball, see `nearest_so_far`.

`fab` computes the boundaries to all K classes, by K gradients per iteration. `fab_t` takes one class after the other,
the likeliest first, by one gradient per iteration: AutoAttack's form. If there are fewer other classes than `targets`,
the remaining runs start at random points, as restarts do.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clead_jax.attacks import nearest_so_far, norms
from clead_jax.attacks.best_so_far import per_row, select
from clead_jax.attacks.fab_projection import length, step_to_plane
from clead_jax.attacks.nearest_so_far import done, keep_nearer, result
from clead_jax.attacks.objectives import fooled, in_turn, likeliest_others, margin, one_hot
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Array, Forward, Iterative, Key, Objective, PyTree, Targeted

_SEARCH = 3  # points tried at the end of a run, nearer to the image than the best by 1/64, 1/128, 1/256


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FABConfig:
    """Settings of FAB; the defaults are the paper's and AutoAttack's. A pytree; floats are traced by jit.
    Raises ValueError for an unknown norm, a negative eps, and counts below their minimum.
    """

    eps: float = 8 / 255  # images within this distance count
    alpha_max: float = 0.1  # largest weight of the step from the image itself
    eta: float = 1.05  # step length; 1 ends on the hyperplane
    beta: float = 0.9  # where to continue after a success, from 0 (the image) to 1 (the success)
    norm: str = jax.tree.static(default="linf")
    steps: int = jax.tree.static(default=100)  # iterations per run
    targets: int = jax.tree.static(default=0)  # likeliest other classes, one run each; 0: all classes in one run
    restarts: int = jax.tree.static(default=1)  # of all runs, from random points after the first

    def __post_init__(self) -> None:
        shares: dict[str, Any] = {"alpha_max": "[0, 1]", "beta": "[0, 1]", "eta": "(0, inf)"}
        norms.check_settings(self, eps="[0, inf]", steps=1, targets=0, restarts=1, **shares)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TargetedFABConfig(FABConfig):
    """FAB towards one class after the other; the 9 likeliest in AutoAttack."""

    targets: int = jax.tree.static(default=9)

    def __post_init__(self) -> None:
        super().__post_init__()
        norms.check_settings(self, targets=1)


class State(NamedTuple):
    """The current point of every example, and the nearest success so far. Every leaf is [B, ...]."""

    x: Array
    x_adv: Array
    target: PyTree
    key: Key
    made: Array  # int32 [B], steps so far
    goals: Array  # int32 [B, R], the class of each run that starts at x itself; unused without `targets`
    best: Array  # [B, ...], x before the first success
    distance: Array  # [B], of best; inf before the first success
    eps: Array  # [B], inf if it covers the box


def init(forward: Forward, objective: Objective, x: Array, target: PyTree, keys: Key, cfg: FABConfig) -> State:
    """The state before the first step. x [B, ...] in [0, 1], keys [B] typed. The objective is not used."""
    made, goals = jnp.zeros_like(per_row(x), jnp.int32), _goals(forward, x, target, cfg)
    found = nearest_so_far.none_yet(x, cfg.eps, cfg.norm)
    return State(x_adv=x, target=target, key=keys, made=made, goals=goals, **found)


def step(forward: Forward, objective: Objective, state: State, cfg: FABConfig) -> State:
    """One iteration, or one point of the final search. It evaluates two points, the current and the next."""
    since = state.made % _steps_per_run(cfg)
    state = _restart(state, since, cfg)
    gap, w, outputs = _plane(forward, state, cfg)
    state = keep_nearer(state, state.x_adv, fooled(outputs, state.target), cfg.norm)
    before, moved = since < cfg.steps, _move(state, gap, w, cfg)
    shrink = 1 - 0.5 ** (6.0 + (since - cfg.steps))  # in the final search, for steps with eta > 1 end about 1 % too far
    nearer = state.x + norms.column(shrink, state.x) * (state.best - state.x)
    x_adv = select(before, moved, nearer)
    fools = fooled(forward(x_adv), state.target)
    state = keep_nearer(state, x_adv, fools, cfg.norm)
    back = state.x + cfg.beta * (x_adv - state.x)
    return state._replace(x_adv=select(fools, back, x_adv), made=state.made + 1)


def num_steps(cfg: FABConfig) -> int:
    """Steps per example."""
    return _runs(cfg) * _steps_per_run(cfg)


def _runs(cfg: FABConfig) -> int:
    return max(cfg.targets, 1) * cfg.restarts


def _steps_per_run(cfg: FABConfig) -> int:
    return cfg.steps + _SEARCH


def _goals(forward: Forward, x: Array, target: PyTree, cfg: FABConfig) -> Array:
    """Target classes [B, R], the likeliest first; for `Targeted` its goal alone."""
    if isinstance(target, Targeted):
        return target.goal[:, None]
    if not cfg.targets:
        return target[:, None]
    return likeliest_others(forward(x), target, cfg.targets)


def _restart(state: State, since: Array, cfg: FABConfig) -> State:
    """A run begins at x itself, or, after one run for each class, at a random point at half the allowed distance."""
    if _runs(cfg) == 1:
        return state
    run, fresh = state.made // _steps_per_run(cfg), state.x
    if _runs(cfg) > state.goals.shape[1]:
        draw = jax.random.normal if cfg.norm != "linf" else functools.partial(jax.random.uniform, minval=-1.0)
        sample = lambda key: draw(key, state.x.shape[1:], state.x.dtype)
        noise = jax.vmap(sample)(jax.vmap(jax.random.fold_in)(state.key, run))
        radius = jnp.minimum(jnp.minimum(state.distance, state.eps), nearest_so_far.box(state.x, cfg.norm)) / 2
        noise = noise * norms.column(radius / length(noise, cfg.norm), noise)
        fresh = select(run < state.goals.shape[1], state.x, jnp.clip(state.x + noise, 0.0, 1.0))
    return state._replace(x_adv=select(since == 0, fresh, state.x_adv))


def _plane(forward: Forward, state: State, cfg: FABConfig) -> tuple[Array, Array, Array]:
    """The boundary of the model linearised at x_adv: (gap [B] = f_goal - f_rival there, its gradient w, the outputs).

    With labels the rival is the label, and the goal is that of the run or the class with the nearest boundary.
    With `Targeted` the rival is the likeliest class other than the goal.
    """
    outputs, pull = jax.vjp(forward, state.x_adv)

    def towards(goal: Array, rival: Array) -> tuple[Array, Array]:
        sign = one_hot(outputs, goal).astype(outputs.dtype) - one_hot(outputs, rival)
        return jnp.sum(jnp.where(sign != 0, sign * outputs, 0.0), axis=-1), pull(sign)[0]

    if isinstance(state.target, Targeted):
        goal = state.target.goal
        return *towards(goal, jnp.argmax(jnp.where(one_hot(outputs, goal), -jnp.inf, outputs), -1)), outputs
    if cfg.targets:
        goal = in_turn(state.goals, state.made // _steps_per_run(cfg))
        return *towards(goal, state.target), outputs

    nearest = (jnp.full_like(per_row(state.x), jnp.inf), per_row(outputs), jnp.zeros_like(state.x))
    for k in range(outputs.shape[-1]):  # one backward pass after the other: vmap is slower on XLA:CPU
        gap, w = towards(jnp.full_like(state.target, k), state.target)
        away = jnp.abs(gap) / jnp.maximum(length(w, norms.DUAL[cfg.norm]), 1e-30)
        away = jnp.where(state.target == k, jnp.inf, away)
        nearest = select(away < nearest[0], (away, gap, w), nearest)
    return *nearest[1:], outputs


def _move(state: State, gap: Array, w: Array, cfg: FABConfig) -> Array:
    """The next point: steps onto the plane from x_adv and from x, extended by eta and mixed."""
    from_x = gap - jnp.sum((w * (state.x_adv - state.x)).reshape(len(gap), -1), -1)  # the linear model's gap at x
    step, step_from_x = step_to_plane(state.x_adv, w, -gap, cfg.norm), step_to_plane(state.x, w, -from_x, cfg.norm)
    near, far = (jnp.maximum(length(s, cfg.norm), 1e-8) for s in (step, step_from_x))
    alpha = norms.column(jnp.minimum(near / (near + far), cfg.alpha_max), w)
    mixed = (1 - alpha) * (state.x_adv + cfg.eta * step) + alpha * (state.x + cfg.eta * step_from_x)
    return jnp.clip(mixed, 0.0, 1.0)


def passes(cfg: FABConfig, classes: int) -> tuple[int, int]:
    """Forward and backward passes of a step: two points, and the gradient of one class or of every class."""
    return 2, 1 if cfg.targets else classes


FAB = Iterative(
    init, step, result, done, num_steps, passes=passes, init_passes=lambda cfg, classes: (int(cfg.targets > 0), 0)
)
ATTACKS.register("fab", FABConfig, objective=margin, nearest=True, own_objective=True)(FAB)
ATTACKS.register("fab_t", TargetedFABConfig, objective=margin, nearest=True, own_objective=True)(FAB)
