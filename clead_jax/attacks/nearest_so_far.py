"""The nearest image so far that fools the model, for attacks that minimise the perturbation.

Such an attack has no ball. What it finds counts if it lies within `eps`, and at any distance if eps covers the box of
all images. Its state has the fields x [B, ...], best [B, ...], distance [B] of best and eps [B].
"""

from typing import Any

import jax.numpy as jnp

from clead_jax.attacks.best_so_far import per_row, select
from clead_jax.attacks.fab_projection import length
from clead_jax.core.types import Array


def none_yet(x: Array, eps: float | Array, norm: str) -> dict[str, Array]:
    """The fields x, best, distance and eps at the start: best is x itself, at distance inf until a first success."""
    zero = jnp.zeros_like(per_row(x))
    return {"x": x, "best": x, "distance": zero + jnp.inf, "eps": jnp.where(eps >= box(x, norm), jnp.inf, zero + eps)}


def keep_nearer(state: Any, x_adv: Array, fools: Array, norm: str) -> Any:
    """The state with x_adv [B, ...] as best in rows where it fools the model, bool [B], and is nearer."""
    distance = jnp.where(fools, length(x_adv - state.x, norm), jnp.inf)
    best, distance = select(distance < state.distance, (x_adv, distance), (state.best, state.distance))
    return state._replace(best=best, distance=distance)


def result(state: Any) -> Array:
    """x_adv [B, ...]: the nearest image that fools the model if it is within eps, else x itself."""
    return select(state.distance <= state.eps, state.best, state.x)


def done(state: Any) -> Array:
    """Rows [B] with a success within eps; none if eps covers the box, for a nearer image may always exist."""
    return (state.distance <= state.eps) & jnp.isfinite(state.eps)


def box(x: Array, norm: str) -> Array:
    """The largest distance of two images, [B]."""
    return length(jnp.ones_like(x), norm)
