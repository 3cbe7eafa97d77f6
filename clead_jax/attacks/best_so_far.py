"""The best point seen so far: one that fools the model, and among those the one with the highest objective."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clead_jax.attacks.objectives import fooled
from clead_jax.core.types import Array, Forward, Key, Objective, PyTree


class Best(NamedTuple):
    """The best point of every example, its objective, and whether it fools the model."""

    x_adv: Array  # [B, ...]
    value: Array  # [B]
    fooled: Array  # bool [B]


def nothing_yet(x: Array) -> Best:
    """x [B, ...] itself, with objective -inf: any point seen later replaces it."""
    value = jnp.full_like(per_row(x), -jnp.inf)
    return Best(x, value, jnp.isfinite(value))


def keep_better(best: Best, x_adv: Array, values: Array, outputs: Array, target: PyTree) -> Best:
    """The better of `best` and x_adv [B, ...], row by row, given the objective's values [B] and the outputs there."""
    new = Best(x_adv, values, fooled(outputs, target))
    better = jnp.where(new.fooled == best.fooled, new.value > best.value, new.fooled)
    return select(better, new, best)


class Search(NamedTuple):
    """A search without gradients. Every leaf is [B, ...]."""

    x: Array
    target: PyTree
    key: Key  # [B]
    made: Array  # int32 [B], points evaluated so far
    best: Best


def evaluate(forward: Forward, objective: Objective, state: Search, x_adv: Array) -> Search:
    """The search with one more point, x_adv [B, ...]."""
    outputs = forward(x_adv)
    best = keep_better(state.best, x_adv, objective(outputs, state.target), outputs, state.target)
    return state._replace(made=state.made + 1, best=best)


def result(state: Any) -> Array:
    """x_adv [B, ...] of an attack whose state has a field `best`: the best point seen."""
    return state.best.x_adv


def done(state: Any) -> Array:
    """Rows [B] of such an attack that already fool the model."""
    return state.best.fooled


def select(mask: Array, new: PyTree, old: PyTree) -> PyTree:
    """new where the mask [B] holds, old elsewhere, for all leaves [B, ...]."""
    return jax.tree.map(functools.partial(jax.vmap(jnp.where), mask), new, old)


def per_row(x: Array) -> Array:
    """One number per row of x [B, ...], sharded as x is: a template for `zeros_like` and its kin."""
    return x.reshape(len(x), -1)[:, 0]
