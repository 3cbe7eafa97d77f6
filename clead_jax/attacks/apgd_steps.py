"""The steps of APGD and the rules that shorten them: one for Linf and L2, another for L1.

`HALVING` (Croce & Hein 2020, arXiv 2003.01690, section 3). Steps of steepest ascent with momentum 1/4, of initial
length 2 eps. At checkpoints, at decreasing intervals, the length is halved, and the search continues from the best
point, if less than 3/4 of the steps since the last one raised the objective, or if the length was not halved there and
the best objective has not grown since.

`SPARSE` (Croce & Hein 2021, arXiv 2103.01208, section 3). A step changes a fifth of the pixels, or 2/3 of the number
that the best point has changed if that is less. At checkpoints (every 4 % of the steps) the search continues from the
best point with length eps if that has become sparser; else the length is divided by 1.5, down to eps / 10.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from clead_jax.attacks import norms
from clead_jax.attacks.best_so_far import per_row
from clead_jax.core.types import Array, PyTree


class Point(NamedTuple):
    """A point and the gradient there."""

    x_adv: Array  # [B, ...]
    gradient: Array  # [B, ...]
    value: Array  # [B], the objective


class Look(NamedTuple):
    """What a step depends on."""

    x: Array  # [B, ...]
    here: Point
    best: Point  # of this stage, `here` included
    eps: Array  # [B], radius of the ball
    since: Array  # int32 [B], steps since the stage began
    period: Array  # int32 [B], at a checkpoint the steps since the last one, else 0


class Rule(NamedTuple):
    """A step rule, as pure functions. `memory`: its state, leaves [B, ...], reset when a stage begins."""

    checkpoints: Callable[[int], list[int]]  # steps of a stage -> the steps between its checkpoints
    init: Callable[[Array], PyTree]  # x -> memory
    review: Callable[[Any, Look], tuple[Any, Array]]  # (memory, look) -> (memory, rows [B] that return to the best)
    move: Callable[[Any, Look, str], tuple[Any, Array]]  # (memory, look, norm) -> (memory, next x_adv)


class _Halving(NamedTuple):
    step_size: Array  # [B]
    before: Array  # [B, ...], the point before this one
    last: Array  # [B], the objective there
    rises: Array  # int32 [B], steps since the last checkpoint that raised the objective
    reviewed: Array  # [B], the best objective at the last checkpoint
    halved: Array  # bool [B], whether the step was halved at the last checkpoint


def _halving_checkpoints(steps: int) -> list[int]:
    length, less, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    lengths: list[int] = []
    while sum(lengths) + length <= steps:
        lengths.append(length)
        length = max(length - less, least)
    return lengths


def _halving_init(x: Array) -> _Halving:
    zero = jnp.zeros_like(per_row(x))
    return _Halving(zero, x, zero, zero.astype(jnp.int32), zero, zero > 0)


def _halving_review(memory: _Halving, look: Look) -> tuple[_Halving, Array]:
    """Counts rises and decides at checkpoints. The first step is compared with 0, not with the start (see `last`)."""
    first, due, value = look.since == 0, look.period > 0, look.here.value
    rises = jnp.where(first, 0, memory.rises + (value > memory.last))
    step_size = jnp.where(first, 2 * look.eps, memory.step_size)
    reviewed = jnp.where(first, value, memory.reviewed)
    few = rises <= 0.75 * look.period
    stuck = ~(memory.halved | first) & (look.best.value <= reviewed)
    halve = due & (few | stuck)
    memory = memory._replace(
        step_size=jnp.where(halve, step_size / 2, step_size),
        last=jnp.where(first, 0.0, value),  # as in the reference implementation
        rises=jnp.where(due, 0, rises),
        reviewed=jnp.where(due, look.best.value, reviewed),
        halved=jnp.where(due, halve, memory.halved | first),
    )
    return memory, halve


def _halving_move(memory: _Halving, look: Look, norm: str) -> tuple[_Halving, Array]:
    rate, x_adv = jnp.where(look.since == 0, 1.0, 0.75), look.here.x_adv
    eps, step_size, fresh = (norms.column(v, look.x) for v in (look.eps, memory.step_size, rate))
    ahead = norms.project(norms.ascend(x_adv, look.here.gradient, step_size, norm), look.x, eps, norm)
    mixed = x_adv + fresh * (ahead - x_adv) + (1 - fresh) * (x_adv - memory.before)
    return memory._replace(before=x_adv), norms.project(mixed, look.x, eps, norm)


class _Sparse(NamedTuple):
    step_size: Array  # [B]
    changed: Array  # [B], pixels in which the best point differed from x at the last checkpoint


def _sparse_checkpoints(steps: int) -> list[int]:
    length = max(int(0.04 * steps), 1)
    return [length] * (steps // length)


def _sparse_init(x: Array) -> _Sparse:
    zero = jnp.zeros_like(per_row(x))
    return _Sparse(zero, zero)


def _sparse_review(memory: _Sparse, look: Look) -> tuple[_Sparse, Array]:
    first, due = look.since == 0, look.period > 0
    changed = jnp.sum((look.best.x_adv != look.x).reshape(len(look.x), -1), axis=-1).astype(look.x.dtype)
    changed = jnp.where(first & (changed == 0), look.x[0].size, changed)  # a start at x itself is not sparse
    sparser = due & (changed < 0.95 * memory.changed)
    shorter = jnp.maximum(memory.step_size / 1.5, look.eps / 10)
    step_size = jnp.where(first | sparser, look.eps, jnp.where(due, shorter, memory.step_size))
    return _Sparse(step_size, jnp.where(first | due, changed, memory.changed)), sparser


def _sparse_move(memory: _Sparse, look: Look, norm: str) -> tuple[_Sparse, Array]:
    count = jnp.minimum(0.2 * look.x[0].size, memory.changed / 1.5)
    eps, step_size, count = (norms.column(v, look.x) for v in (look.eps, memory.step_size, count))
    x_adv = norms.ascend_sparse(look.here.x_adv, look.here.gradient, step_size, count)
    return memory, norms.project(x_adv, look.x, eps, norm)


HALVING = Rule(_halving_checkpoints, _halving_init, _halving_review, _halving_move)
SPARSE = Rule(_sparse_checkpoints, _sparse_init, _sparse_review, _sparse_move)
