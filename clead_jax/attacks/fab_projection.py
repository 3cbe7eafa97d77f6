"""The nearest point on a hyperplane and inside the pixel box, in three norms.

    minimise |delta|   subject to   <w, delta> = gain,   0 <= x + delta <= 1            (Croce & Hein 2020, section 2)

Every pixel of the solution moves in the direction of w, up to the edge of the box: in Linf by min(t, room), in L2 by
min(t |w|, room), with one t for all. The gain is concave and piecewise linear in t, so Newton's method from t = 0 is
monotone, and exact on the right piece. In L1 the pixels of largest |w| are used up first, the last found by bisection.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from clead_jax.attacks import norms
from clead_jax.core.types import Array

_NEWTON = 12  # steps; on images of 3072 pixels 8 suffice (float32)
_TINY = 1e-20


def step_to_plane(x: Array, w: Array, gain: Array, norm: str) -> Array:
    """The smallest delta [B, ...] in the norm (linf, l2 or l1) with <w, delta> = gain [B] and x + delta in [0, 1].

    x [B, ...] lies in [0, 1]; the normals w [B, ...] have any length, and where w is 0 so is delta; gains have either
    sign. Where plane and box do not intersect, delta leads to the corner of the box with the largest gain.
    """
    # Gradients may be near 1e-30, their squares 0 in float32: the largest entry is divided out.
    largest = norms.column(jnp.max(jnp.abs(w), axis=_pixels(w)), w)
    w = w / jnp.where(largest > 0, largest, 1.0) * norms.column(jnp.where(gain < 0, -1.0, 1.0), w)
    gain = jnp.abs(norms.column(gain, w)) / jnp.where(largest > 0, largest, 1.0)
    slope, room = jnp.abs(w), jnp.where(w > 0, 1.0 - x, x)
    if norm == "l1":
        return jnp.sign(w) * _steepest_first(slope, room, gain)
    return jnp.sign(w) * _all_together(slope, slope if norm == "l2" else jnp.ones_like(slope), room, gain)


def length(v: Array, norm: str) -> Array:
    """The norm [B] of every row of v [B, ...]; `norm` is linf, l2 or l1. Safe where squares underflow."""
    size = jnp.abs(v)
    largest = jnp.max(size, axis=_pixels(v))
    if norm == "linf":
        return largest
    if norm == "l1":
        return jnp.sum(size, axis=_pixels(v))
    scale = jnp.where(largest > 0, largest, 1.0)
    return scale * jnp.sqrt(jnp.sum((v / norms.column(scale, v)) ** 2, axis=_pixels(v)))


def _all_together(slope: Array, speed: Array, room: Array, gain: Array) -> Array:
    """How far every pixel moves: min(t speed, room) with the least t that reaches the gain."""

    def newton(_: int, time: Array) -> Array:
        gained = norms.total(slope * jnp.minimum(time * speed, room))
        rate = norms.total(jnp.where(time * speed < room, slope * speed, 0.0))
        return time + jnp.maximum(gain - gained, 0.0) / jnp.maximum(rate, _TINY)

    return jnp.minimum(jax.lax.fori_loop(0, _NEWTON, newton, jnp.zeros_like(gain)) * speed, room)


def _steepest_first(slope: Array, room: Array, gain: Array) -> Array:
    """How far every pixel moves when the steepest are used up first; ties at the last slope share the rest."""
    # The bits of non-negative floats, read as integers, are in the same order as the floats.
    bits = jax.lax.bitcast_convert_type(slope, jnp.int32)
    gained: Callable[[Array], Array] = lambda used: norms.total(jnp.where(used, slope * room, 0.0))

    def next_bit(i: int, last: Array) -> Array:
        candidate = last | (1 << (30 - i))
        return jnp.where(gained(bits >= candidate) >= gain, candidate, last)

    last = jax.lax.fori_loop(0, 31, next_bit, jnp.zeros_like(gain, jnp.int32))
    share = (gain - gained(bits > last)) / jnp.maximum(gained(bits == last), _TINY)
    return jnp.where(bits > last, room, jnp.where(bits == last, jnp.clip(share, 0.0, 1.0) * room, 0.0))


def _pixels(v: Array) -> tuple[int, ...]:
    return tuple(range(1, v.ndim))
