"""ATen's operators that are whole layers: convolution, normalisation, pooling and resizing, of x [N, C, ...]."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from clead_jax.core.types import Array
from clead_jax.interop.aten import operator

Sizes = Sequence[int]


def _each(values: Sizes, rank: int) -> list[int]:
    """One value per axis; a single one stands for all."""
    return list(values) * (rank if len(values) == 1 else 1)


@operator("convolution")
def _convolution(
    x: Array,
    w: Array,
    bias: Array | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
) -> Array:
    """x [N, C, ...] with w [O, C / groups, ...]; transposed: with w [C, O / groups, ...]."""
    dtype, rank = jnp.promote_types(x.dtype, w.dtype), w.ndim - 2
    stride, padding, dilation, extra = (_each(v, rank) for v in (stride, padding, dilation, output_padding))
    around, window, spread = [(p, p) for p in padding], stride, [1] * rank
    if transposed:  # the gradient of a convolution: x spread out by the stride, the kernel reversed
        inputs, outputs, *kernel = w.shape
        w = jnp.swapaxes(w.reshape(groups, inputs // groups, outputs, *kernel), 1, 2)
        w = jnp.flip(w.reshape(groups * outputs, inputs // groups, *kernel), range(2, rank + 2))
        reach = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        around, window, spread = [(r, r + e) for r, e in zip(reach, extra, strict=True)], spread, stride
    y = lax.conv_general_dilated(
        x.astype(dtype), w.astype(dtype), window, around, spread, dilation, feature_group_count=groups
    )
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _affine(x: Array, w: Array | None, bias: Array | None) -> Array:
    """x * w + bias, per channel of x [N, C, ...]."""
    per_channel = lambda v: v.reshape(-1, *[1] * (x.ndim - 2))
    x = x if w is None else x * per_channel(w)
    return x if bias is None else x + per_channel(bias)


def _standardised(x: Array, axes: Sizes, eps: float) -> Array:
    return (x - x.mean(axes, keepdims=True)) * lax.rsqrt(x.var(axes, keepdims=True) + eps)


@operator("_native_batch_norm_legit_no_training")
def _batch_norm(x: Array, w: Any, bias: Any, mean: Array, var: Array, momentum: float, eps: float) -> tuple:
    inverse = lax.rsqrt(var + eps)
    return _affine(_affine(x, None, -mean), inverse if w is None else inverse * w, bias), None, None


@operator("_native_batch_norm_legit.no_stats")
def _batch_norm_of_the_batch(x: Array, w: Any, bias: Any, training: bool, momentum: float, eps: float) -> tuple:
    return _affine(_standardised(x, (0, *range(2, x.ndim)), eps), w, bias), None, None


@operator("native_group_norm")
def _group_norm(x: Array, w: Any, bias: Any, n: int, channels: int, pixels: int, groups: int, eps: float) -> tuple:
    return _affine(_standardised(x.reshape(n, groups, -1), (2,), eps).reshape(x.shape), w, bias), None, None


@operator("native_layer_norm")
def _layer_norm(x: Array, shape: Sizes, w: Array | None, bias: Array | None, eps: float) -> tuple:
    y = _standardised(x, tuple(range(-len(shape), 0)), eps)
    y = y if w is None else y * w
    return (y if bias is None else y + bias), None, None


def _pool(
    x: Any, start: Any, combine: Callable, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil: bool
) -> Array:
    """Windows over the last axes. With `ceil` a last window may reach over the edge, but begins before it."""
    ones, around = (1,) * (x.ndim - len(kernel)), []
    for n, k, s, p, d in zip(x.shape[len(ones) :], kernel, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        steps = (math.ceil if ceil else math.floor)((n + 2 * p - reach) / s)
        steps -= ceil and steps * s >= n + p
        around.append((p, max(p, steps * s + reach - n - p)))
    around = [(0, 0)] * len(ones) + around
    return lax.reduce_window(x, start, combine, (*ones, *kernel), (*ones, *stride), around, None, (*ones, *dilation))


@operator(*(f"max_pool{rank}d_with_indices" for rank in (2, 3)))
def _max_pool(
    x: Array, kernel: Sizes, stride: Sizes = (), padding: Sizes = (0,), dilation: Sizes = (1,), ceil: bool = False
) -> tuple[Array, None]:
    """The positions of the maxima are not given."""
    stride, padding, dilation = (_each(v, len(kernel)) for v in (stride or kernel, padding, dilation))
    return _pool(x, -jnp.inf, lax.max, kernel, stride, padding, dilation, ceil), None


@operator("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(
    x: Array,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    ceil: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Array:
    rank = len(kernel)
    stride, padding, zeros, ones = (_each(v, rank) for v in (stride or kernel, padding, (0,), (1,)))
    total = lambda v, padding: _pool(v, np.zeros((), v.dtype), lax.add, kernel, stride, padding, ones, ceil)
    if divisor:
        return total(x, padding) / divisor
    # What lies over the edge beyond the padding, where `ceil` leads, is never counted.
    within = np.pad(np.ones(x.shape[-rank:], x.dtype), [(p, p) for p in padding], constant_values=count_padding)
    return total(x, padding) / total(within, zeros)


def _spans(n: int, size: int) -> list[slice]:
    """The `size` overlapping parts of n pixels of an adaptive pooling."""
    return [slice(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]


def _along_last_axes(x: Array, sizes: Sizes, change: Callable[[Array, int, int], Array]) -> Array:
    """change(x, axis, size) for one trailing axis after the other."""
    for i, size in enumerate(sizes):
        x = change(x, x.ndim - len(sizes) + i, size)
    return x


def _adaptive(reduce: Callable) -> Callable[[Array, Sizes], Array]:
    def pool_axis(x: Array, axis: int, size: int) -> Array:
        parts = (x[(*[slice(None)] * axis, span)] for span in _spans(x.shape[axis], size))
        return jnp.stack([reduce(part, axis) for part in parts], axis)

    return lambda x, sizes: _along_last_axes(x, sizes, pool_axis)


operator("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d")(_adaptive(jnp.mean))
operator("adaptive_max_pool2d", "adaptive_max_pool3d")(lambda x, sizes: (_adaptive(jnp.max)(x, sizes), None))


def _output_size(x: Array, size: Sizes | None, scales: Sequence[float] | None) -> list[tuple[int, float]]:
    """(size, input pixels per output pixel) of each resized axis, where either sizes or scales are given."""
    if size is not None:
        return [(m, n / m) for n, m in zip(x.shape[2:], size, strict=True)]
    assert scales is not None
    return [(int(n * scale), 1 / scale) for n, scale in zip(x.shape[2:], scales, strict=True)]


@operator(*(f"upsample_nearest{rank}d.vec" for rank in (1, 2, 3)))
def _nearest(x: Array, size: Sizes | None, scales: Sequence[float] | None) -> Array:
    for axis, (m, step) in enumerate(_output_size(x, size, scales), start=2):
        x = jnp.take(x, np.minimum(np.arange(m) * step, x.shape[axis] - 1).astype(int), axis)
    return x


@operator("upsample_linear1d.vec", "upsample_bilinear2d.vec", "upsample_trilinear3d.vec")
def _linear(x: Array, size: Sizes | None, corners: bool, scales: Sequence[float] | None) -> Array:
    for axis, (m, step) in enumerate(_output_size(x, size, scales), start=2):
        last = x.shape[axis] - 1
        at = np.arange(m) * (last / max(m - 1, 1)) if corners else np.maximum((np.arange(m) + 0.5) * step - 0.5, 0)
        low = np.minimum(at.astype(int), last)
        share = (at - low).reshape(-1, *[1] * (x.ndim - 1 - axis)).astype(x.dtype)
        above = jnp.take(x, np.minimum(low + 1, last), axis)
        x = jnp.take(x, low, axis) * (1 - share) + above * share
    return x
