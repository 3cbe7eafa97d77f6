"""Geometry of the threat model: random starts, steepest ascent, projection.

A threat model is a ball of radius `eps` around every image, intersected with the pixel box [0, 1]. Each function treats
every example separately; `eps` and step sizes are in units of the [0, 1] pixel range and may be traced; `norm` is one
of `NORMS` (another raises ValueError). In L1 steps and projections must respect the box: clipped to it afterwards, they
would lose most of their length (Croce & Hein 2021, arXiv 2103.01208, section 2).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clead_jax.core import spec
from clead_jax.core.types import Array, Key

NORMS = ("linf", "l2", "l1")
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}  # the norm of gradients
_TINY = 1e-30


def start(keys: Key, x: Array, eps: float | Array, norm: str) -> Array:
    """Points drawn uniformly from the ball around x [B, ...], clipped to [0, 1]; typed keys [B], one per example."""
    check(norm)
    if norm == "linf":
        noise = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -1.0, 1.0))(keys)
    elif norm == "l1":  # uniform in a d-ball: d of d + 1 variables on its sphere, Laplace ones divided by their sum
        laplace = jax.vmap(lambda key: jax.random.laplace(key, (x[0].size + 1,), x.dtype))(keys)
        noise = (laplace / jnp.sum(jnp.abs(laplace), axis=-1, keepdims=True))[:, :-1].reshape(x.shape)
    else:  # uniform in a d-ball: a uniform direction, and a radius whose d-th power is uniform
        keys = jax.vmap(jax.random.split)(keys)
        normal = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys[:, 0])
        radius = jax.vmap(lambda key: jax.random.uniform(key, dtype=x.dtype) ** (1.0 / x[0].size))(keys[:, 1])
        noise = jax.vmap(jnp.multiply)(radius, unit(normal))
    return jnp.clip(x + eps * noise, 0.0, 1.0)


def ascend(x_adv: Array, grad: Array, step_size: float | Array, norm: str) -> Array:
    """x_adv [B, ...] moved by `step_size`, measured in the norm, in the direction of steepest ascent.

    In L1 pixels are used one after the other, the steepest first, each up to the edge of [0, 1].
    """
    check(norm)
    if norm == "l1":
        return x_adv + _steepest_first(x_adv, grad, step_size)
    return x_adv + step_size * (jnp.sign(grad) if norm == "linf" else unit(grad))


def ascend_sparse(x_adv: Array, grad: Array, step_size: float | Array, count: Array) -> Array:
    """x_adv [B, ...] moved by `step_size` in L1, shared equally by the `count` pixels of steepest gradient.

    The step of APGD in L1 (arXiv 2103.01208, section 3): less greedy than `ascend`, which settles on few pixels early.
    Ties with the last of them move too. count [B, 1, ...] is rounded up, and at least 1.
    """
    slope = jnp.abs(grad)
    count = jnp.maximum(count, 1.0)
    last = _smallest(lambda level: total((slope > level).astype(slope.dtype)) < count, grad)
    direction = jnp.where(slope >= last, jnp.sign(grad), 0.0)
    return x_adv + step_size * direction / jnp.maximum(total(jnp.abs(direction)), 1.0)


def project(x_adv: Array, x: Array, eps: float | Array, norm: str) -> Array:
    """x_adv [B, ...] projected into the ball around x and into [0, 1].

    The box comes last and keeps the ball: x lies in the box, so clipping only moves a point nearer to x. In L1 the
    result is the nearest point of the intersection, which projecting onto one after the other would not find.
    """
    check(norm)
    if norm == "linf":
        x_adv = jnp.clip(x_adv, x - eps, x + eps)
    elif norm == "l1":
        x_adv = _nearest_in_l1(x_adv, x, eps)
    else:
        length = l2(x_adv - x, keepdims=True)
        outside = length > eps
        x_adv = jnp.where(outside, x + (x_adv - x) * (eps / jnp.where(outside, length, 1.0)), x_adv)
    return jnp.clip(x_adv, 0.0, 1.0)


def l2(v: Array, keepdims: bool = False) -> Array:
    """The Euclidean length [B] of every row of v [B, ...]; its gradient at 0 is undefined."""
    return jnp.sqrt(jnp.sum(v**2, axis=tuple(range(1, v.ndim)), keepdims=keepdims))


def unit(v: Array) -> Array:
    """v [B, ...] with every row scaled to length 1; a row of zeros stays.

    Gradients of a confident network are near 1e-30, their squares 0 in float32: the largest entry is divided out first.
    """
    largest = jnp.max(jnp.abs(v), axis=tuple(range(1, v.ndim)), keepdims=True)
    v = v / jnp.where(largest > 0, largest, 1.0)
    return v / jnp.maximum(l2(v, keepdims=True), 1.0)


def column(per_row: Array, like: Array) -> Array:
    """[B] as [B, 1, ...], to be broadcast against `like` [B, ...]."""
    return per_row.reshape(-1, *(1 for _ in like.shape[1:]))


def check(norm: str) -> None:
    """Raises ValueError unless `norm` is one of `NORMS`."""
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}: known: {', '.join(NORMS)}")


def check_settings(cfg: Any, **ranges: int | str) -> None:
    """Raises ValueError for an unknown `cfg.norm`, and for fields outside their range, "(0, 1]", or below the whole
    number that stands for it; traced ones pass.
    """
    check(cfg.norm)
    spec.check_ranges(cfg, **{name: r if isinstance(r, str) else f"[{r}, inf)" for name, r in ranges.items()})


def _nearest_in_l1(x_adv: Array, x: Array, eps: float | Array) -> Array:
    """All changes shrink by the same amount, down to 0, those outside the box from its edge.

    The least sufficient amount gives the projection (arXiv 2103.01208, section 2).
    """
    size, room = jnp.abs(x_adv - x), jnp.where(x_adv > x, 1.0 - x, x)
    left: Callable[[Array], Array] = lambda amount: jnp.clip(size - amount, 0.0, room)
    amount = _smallest(lambda amount: total(left(amount)) <= eps, size)
    return jnp.where(amount > 0, x + jnp.sign(x_adv - x) * left(amount), x_adv)


def _steepest_first(x_adv: Array, grad: Array, step_size: float | Array) -> Array:
    """The change of L1 length `step_size` in the box with the largest gain; ties at the last slope share the rest."""
    slope, room = jnp.abs(grad), jnp.where(grad > 0, 1.0 - x_adv, x_adv)
    spent: Callable[[Array], Array] = lambda used: total(jnp.where(used, room, 0.0))
    last = _smallest(lambda level: spent(slope > level) <= step_size, grad)
    share = jnp.clip((step_size - spent(slope > last)) / jnp.maximum(spent(slope == last), _TINY), 0.0, 1.0)
    return jnp.sign(grad) * jnp.where(slope > last, room, jnp.where(slope == last, share * room, 0.0))


def _smallest(holds: Callable[[Array], Array], like: Array) -> Array:
    """For every row the smallest float32 >= 0, [B, 1, ...], from which on `holds` is true.

    The bits of non-negative floats, read as integers, are in the same order: 31 bisections find it, without a sort.
    """
    as_float: Callable[[Array], Array] = lambda bits: jax.lax.bitcast_convert_type(bits, jnp.float32)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = jnp.maximum(low + (high - low) // 2, 0)
        enough = holds(as_float(middle))
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    zero = jnp.zeros_like(total(like), jnp.int32)
    infinity = jax.lax.bitcast_convert_type(jnp.float32(jnp.inf), jnp.int32)
    return as_float(jax.lax.fori_loop(0, 31, halve, (zero - 1, zero + infinity))[1])


def total(v: Array) -> Array:
    """The sum over every row of v [B, ...], as [B, 1, ...]."""
    return jnp.sum(v, axis=tuple(range(1, v.ndim)), keepdims=True)
