"""FMN, the fast minimum-norm attack (Pintor et al. 2021, arXiv 2102.12827, algorithm 1): the nearest image that fools
the model, in Linf, L2 or L1.

    radius <- (1 - gamma) radius, after a point that fools the model; (1 + gamma) radius, after one that does not, where
              before the first success the radius is the distance to the boundary of the linearised model
    x_adv  <- project(ascend(x_adv, gradient of the objective at x_adv), into the ball of that radius around x)

The length of the steps and gamma decay by a cosine. The nearest success is kept: one run gives robust accuracy at every
radius. The search has no ball, see `nearest_so_far`.

Steps here are measured in the attack's norm and in units of the radius; the paper's, in L2 and of a length in pixels,
would have to be chosen anew for every norm and size of images.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from clead_jax.attacks import nearest_so_far, norms
from clead_jax.attacks.best_so_far import per_row, select
from clead_jax.attacks.fab_projection import length
from clead_jax.attacks.nearest_so_far import done, keep_nearer, result
from clead_jax.attacks.objectives import ascent, fooled, in_turn, likeliest_others, margin
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Array, Forward, Iterative, Key, Objective, PyTree, Targeted


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FMNConfig:
    """Settings of FMN. A pytree; floats are traced by jit. Raises ValueError for an unknown norm, a negative eps, and
    settings outside their range.
    """

    eps: float = 8 / 255  # images within this distance count
    alpha: float = 1.0  # length of the first step, in units of the radius; the last is a hundredth of it
    gamma: float = 0.05  # by which share the radius changes in the first step; in the last a fiftieth of it
    norm: str = jax.tree.static(default="linf")
    steps: int = jax.tree.static(default=100)  # of each run
    targets: int = jax.tree.static(default=3)  # likeliest other classes, one run each; 0: one run to whichever is near

    def __post_init__(self) -> None:
        norms.check_settings(self, eps="[0, inf]", steps=1, targets=0, alpha="(0, inf)", gamma="(0, 1)")


class State(NamedTuple):
    """The current point of every example, and the nearest success so far. Every leaf is [B, ...]."""

    x: Array
    x_adv: Array
    target: PyTree
    goals: Array | None  # int32 [B, T], the class of each run; None without `targets`
    made: Array  # int32 [B], steps so far
    radius: Array  # [B]
    best: Array  # [B, ...], x before the first success
    distance: Array  # [B], of best; inf before the first success
    eps: Array  # [B], inf if it covers the box


def init(forward: Forward, objective: Objective, x: Array, target: PyTree, keys: Key, cfg: FMNConfig) -> State:
    """The state before the first step. x [B, ...] in [0, 1]. The attack is deterministic: keys are not used."""
    zero = jnp.zeros_like(per_row(x))
    goals = likeliest_others(forward(x), target, cfg.targets) if _by_class(target, cfg) else None
    found = nearest_so_far.none_yet(x, cfg.eps, cfg.norm)
    return State(x_adv=x, target=target, goals=goals, made=zero.astype(jnp.int32), radius=zero, **found)


def step(forward: Forward, objective: Objective, state: State, cfg: FMNConfig) -> State:
    """One gradient: keeps the current point if it is the nearest success, then changes the radius and moves."""
    run, since = jnp.divmod(state.made, cfg.steps)
    state = state._replace(x_adv=select(since == 0, state.x, state.x_adv))
    aim = state.target if state.goals is None else Targeted(state.target, in_turn(state.goals, run))
    gradient, values, outputs = ascent(forward, objective, state.x_adv, aim)
    fools = fooled(outputs, state.target)
    state = keep_nearer(state, state.x_adv, fools, cfg.norm)
    gamma = optax.cosine_decay_schedule(cfg.gamma, cfg.steps, 0.02)(since)
    slope = jnp.maximum(length(gradient, norms.DUAL[cfg.norm]), 1e-30)
    to_boundary = length(state.x_adv - state.x, cfg.norm) + jnp.abs(values) / slope
    larger = (1 + gamma) * jnp.where(jnp.isfinite(state.distance), state.radius, to_boundary)
    radius = jnp.where(fools, jnp.minimum((1 - gamma) * state.radius, state.distance), larger)
    ball, alpha = norms.column(radius, gradient), optax.cosine_decay_schedule(cfg.alpha, cfg.steps, 0.01)(since)
    x_adv = norms.ascend(state.x_adv, gradient, norms.column(alpha, gradient) * ball, cfg.norm)
    x_adv = norms.project(x_adv, state.x, ball, cfg.norm)
    return state._replace(x_adv=x_adv, made=state.made + 1, radius=radius)


def _by_class(target: PyTree, cfg: FMNConfig) -> bool:
    """Whether there is a run for each of several classes."""
    return cfg.targets > 0 and not isinstance(target, Targeted)


FMN = Iterative(
    init,
    step,
    result,
    done,
    num_steps=lambda cfg: max(cfg.targets, 1) * cfg.steps,
    init_passes=lambda cfg, classes: (int(cfg.targets > 0), 0),
)
ATTACKS.register("fmn", FMNConfig, objective=margin, nearest=True)(FMN)
