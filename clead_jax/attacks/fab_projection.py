"""The nearest point where a hyperplane and the pixel box meet, in three norms: the geometry of a decision boundary.

    minimise |delta|   subject to   <w, delta> = gain,   0 <= x + delta <= 1            (Croce & Hein 2020, section 2)

Every pixel can only help by moving the way of w, and only as far as the box has room. In Linf all pixels set out
together at the same speed, in L2 at speeds |w|; each stops at the edge of the box. What they have gained by time t is
concave and piecewise linear, so Newton's method from t = 0 climbs without ever overshooting, and lands exactly once it
is on the right piece: no sort is needed. In L1 the pixels of largest |w| are used up one after the other; the |w| at
which to stop is found bit by bit.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from clead_jax.attacks import norms
from clead_jax.core.types import Array

_NEWTON = 12  # steps; on images of 3072 pixels 8 suffice (float32)
_TINY = 1e-20


def step_to_plane(x: Array, w: Array, gain: Array, norm: str) -> Array:
    """The smallest delta [B, ...] that gains <w, delta> = gain [B] and keeps x + delta in [0, 1].

    Args:
      x: points [B, ...] in [0, 1].
      w: normals of the hyperplanes [B, ...], of any length; where w is 0 delta is 0.
      gain: [B], of either sign.
      norm: "linf", "l2" or "l1".

    Returns:
      delta [B, ...]; where the plane does not meet the box, the corner of the box that gains most.
    """
    # Gradients may be 1e-30, whose squares would vanish: the largest entry becomes 1.
    largest = norms.column(jnp.max(jnp.abs(w), axis=_pixels(w)), w)
    w = w / jnp.where(largest > 0, largest, 1.0) * norms.column(jnp.where(gain < 0, -1.0, 1.0), w)
    gain = jnp.abs(norms.column(gain, w)) / jnp.where(largest > 0, largest, 1.0)
    slope, room = jnp.abs(w), jnp.where(w > 0, 1.0 - x, x)
    if norm == "l1":
        return jnp.sign(w) * _steepest_first(slope, room, gain)
    return jnp.sign(w) * _all_together(slope, slope if norm == "l2" else jnp.ones_like(slope), room, gain)


def length(v: Array, norm: str) -> Array:
    """The norm [B] of every row of v [B, ...]; `norm` is linf, l2 or l1. Safe for entries whose squares vanish."""
    size = jnp.abs(v)
    largest = jnp.max(size, axis=_pixels(v))
    if norm == "linf":
        return largest
    if norm == "l1":
        return jnp.sum(size, axis=_pixels(v))
    scale = jnp.where(largest > 0, largest, 1.0)
    return scale * jnp.sqrt(jnp.sum((v / norms.column(scale, v)) ** 2, axis=_pixels(v)))


def _all_together(slope: Array, speed: Array, room: Array, gain: Array) -> Array:
    """How far every pixel has come when the gain is reached, all having set out at once."""

    def newton(_: int, time: Array) -> Array:
        gained = _total(slope * jnp.minimum(time * speed, room))
        rate = _total(jnp.where(time * speed < room, slope * speed, 0.0))
        return time + jnp.maximum(gain - gained, 0.0) / jnp.maximum(rate, _TINY)

    return jnp.minimum(jax.lax.fori_loop(0, _NEWTON, newton, jnp.zeros_like(gain)) * speed, room)


def _steepest_first(slope: Array, room: Array, gain: Array) -> Array:
    """How far every pixel moves when the steepest are used up first; those at the last slope share what remains."""
    # The bits of non-negative floats, read as integers, are in the same order as the floats.
    bits = jax.lax.bitcast_convert_type(slope, jnp.int32)
    gained: Callable[[Array], Array] = lambda used: _total(jnp.where(used, slope * room, 0.0))

    def next_bit(i: int, last: Array) -> Array:
        candidate = last | (1 << (30 - i))
        return jnp.where(gained(bits >= candidate) >= gain, candidate, last)

    last = jax.lax.fori_loop(0, 31, next_bit, jnp.zeros_like(gain, jnp.int32))
    share = (gain - gained(bits > last)) / jnp.maximum(gained(bits == last), _TINY)
    return jnp.where(bits > last, room, jnp.where(bits == last, jnp.clip(share, 0.0, 1.0) * room, 0.0))


def _pixels(v: Array) -> tuple[int, ...]:
    return tuple(range(1, v.ndim))


def _total(v: Array) -> Array:
    return jnp.sum(v, axis=_pixels(v), keepdims=True)
