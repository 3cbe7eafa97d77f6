"""The geometry of an attack: where it starts, which way is up, how it stays inside the threat model.

A threat model is a ball of radius `eps` around every image, cut with the pixel box [0, 1]. All that an attack needs to
know about it are three functions. Each takes a batch and treats every example on its own; `eps` and step sizes are in
pixel units and may be traced, `norm` is one of `NORMS` (another raises ValueError).
"""

import jax
import jax.numpy as jnp

from clead_jax.types import Array, Key

NORMS = ("linf", "l2")


def start(keys: Key, x: Array, eps: float | Array, norm: str) -> Array:
    """Points drawn uniformly from the ball around x [B, ...], clipped to [0, 1]; typed keys [B], one per example."""
    check(norm)
    if norm == "linf":
        noise = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -1.0, 1.0))(keys)
    else:  # uniform in a d-ball: a uniform direction, and a radius whose d-th power is uniform
        keys = jax.vmap(jax.random.split)(keys)
        normal = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys[:, 0])
        radius = jax.vmap(lambda key: jax.random.uniform(key, dtype=x.dtype) ** (1.0 / x[0].size))(keys[:, 1])
        noise = jax.vmap(jnp.multiply)(radius, unit(normal))
    return jnp.clip(x + eps * noise, 0.0, 1.0)


def ascend(x_adv: Array, grad: Array, step_size: float | Array, norm: str) -> Array:
    """x_adv [B, ...] moved by `step_size`, measured in the norm, in the direction of steepest ascent."""
    check(norm)
    return x_adv + step_size * (jnp.sign(grad) if norm == "linf" else unit(grad))


def project(x_adv: Array, x: Array, eps: float | Array, norm: str) -> Array:
    """x_adv [B, ...] brought back into the ball around x and into [0, 1].

    The box comes last and breaks nothing: x lies in it, so clipping only brings a point nearer to x.
    """
    check(norm)
    if norm == "linf":
        x_adv = jnp.clip(x_adv, x - eps, x + eps)
    else:
        length = l2(x_adv - x, keepdims=True)
        outside = length > eps
        x_adv = jnp.where(outside, x + (x_adv - x) * (eps / jnp.where(outside, length, 1.0)), x_adv)
    return jnp.clip(x_adv, 0.0, 1.0)


def l2(v: Array, keepdims: bool = False) -> Array:
    """The Euclidean length [B] of every row of v [B, ...]; its gradient at 0 is not defined."""
    return jnp.sqrt(jnp.sum(v**2, axis=tuple(range(1, v.ndim)), keepdims=keepdims))


def unit(v: Array) -> Array:
    """v [B, ...] with every row scaled to length 1; a row of zeros stays.

    A confident network has gradients near 1e-30, whose squares are 0 in float32: divide by the largest entry first.
    """
    largest = jnp.max(jnp.abs(v), axis=tuple(range(1, v.ndim)), keepdims=True)
    v = v / jnp.where(largest > 0, largest, 1.0)
    return v / jnp.maximum(l2(v, keepdims=True), 1.0)


def check(norm: str) -> None:
    """Raises ValueError unless `norm` is one of `NORMS`."""
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}: known: {', '.join(NORMS)}")
