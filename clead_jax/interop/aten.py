"""PyTorch's core ATen operators as JAX functions: "add" stands for every overload of aten.add, "max.dim" for one.

Arguments are those of the ATen schema: tensors are jax arrays [N, C, ...], dtypes their names, and what names a device
or a memory layout is left out. An operator of several results gives a tuple. Gradients at a kink are torch's: 0 for
relu at 0, 1 for clamp at its bounds. A further operator is one more entry:

    ATEN["erfcx"] = lambda x: ...
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from clead_jax.core.types import Array

Dims = int | Sequence[int] | None
SAME_IN_NUMPY = """
    abs acos acosh asin asinh atan atan2 atanh bitwise_and bitwise_not bitwise_or bitwise_xor ceil cos cosh exp exp2
    expm1 flip floor fmod hypot isinf isnan log log10 log1p log2 logical_and logical_not logical_or logical_xor maximum
    minimum remainder round sign sin sinh sqrt square tan tanh tril triu trunc where
"""
ATEN: dict[str, Callable[..., Any]] = {name: getattr(jnp, name) for name in SAME_IN_NUMPY.split()}
ATEN |= {
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
    "neg": jnp.negative,
    "mul": jnp.multiply,
    "max.other": jnp.maximum,
    "min.other": jnp.minimum,
    "reciprocal": lambda x: 1 / x,
    "add": lambda x, y, alpha=1: x + y if alpha == 1 else x + alpha * y,
    "sub": lambda x, y, alpha=1: x - y if alpha == 1 else x - alpha * y,
    "rsub": lambda x, y, alpha=1: y - alpha * x,
    "erf": lax.erf,
    "erfc": lax.erfc,
    "rsqrt": lax.rsqrt,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "log_sigmoid": jax.nn.log_sigmoid,
    "celu": lambda x, alpha=1.0: jax.nn.celu(x, alpha),
    "gelu": lambda x, approximate="none": jax.nn.gelu(x, approximate=approximate == "tanh"),
    "leaky_relu": lambda x, slope=0.01: jnp.where(x > 0, x, slope * x),
    "hardtanh": lambda x, low=-1.0, high=1.0: jnp.where(x <= low, low, jnp.where(x >= high, high, x)).astype(x.dtype),
    "elu": lambda x, alpha=1.0, scale=1.0, inner=1.0: (
        scale * jnp.where(x > 0, x, alpha * jnp.expm1(inner * jnp.where(x > 0, 0, x)))
    ),
    "_softmax": lambda x, dim, half_to_float=False: jax.nn.softmax(x, dim),
    "_log_softmax": lambda x, dim, half_to_float=False: jax.nn.log_softmax(x, dim),
    "mm": jnp.matmul,
    "bmm": jnp.matmul,
    "addmm": lambda b, x, y, beta=1, alpha=1: beta * b + alpha * (x @ y),
    "baddbmm": lambda b, x, y, beta=1, alpha=1: beta * b + alpha * (x @ y),
    "alias": lambda x: x,
    "clone": lambda x: x,
    "lift_fresh_copy": lambda x: x,
    "detach": lax.stop_gradient,
    "copy": lambda x, source: jnp.broadcast_to(source, x.shape).astype(x.dtype),
    "_assert_async": lambda *args: None,
    "_assert_tensor_metadata": lambda *args, **kwargs: None,
    "view": jnp.reshape,
    "reshape": jnp.reshape,
    "_unsafe_view": jnp.reshape,
    "permute": jnp.transpose,
    "unsqueeze": jnp.expand_dims,
    "repeat": jnp.tile,
    "diagonal": jnp.diagonal,
    "cat": lambda tensors, dim=0: jnp.concatenate(tensors, dim),
    "stack": lambda tensors, dim=0: jnp.stack(tensors, dim),
    "select": lambda x, dim, index: lax.index_in_dim(x, index, dim, keepdims=False),
    "split_with_sizes": lambda x, sizes, dim=0: jnp.split(x, np.cumsum(sizes)[:-1], dim),
    "index_select": lambda x, dim, index: jnp.take(x, index, dim),
    "gather": lambda x, dim, index, sparse_grad=False: jnp.take_along_axis(x, index, dim),
    "embedding": lambda table, index, *_: table[index],
    "amax": lambda x, dim=(), keepdim=False: jnp.max(x, _axes(dim), keepdims=keepdim),
    "amin": lambda x, dim=(), keepdim=False: jnp.min(x, _axes(dim), keepdims=keepdim),
    "any": lambda x, dim=None, keepdim=False: jnp.any(x, _axes(dim), keepdims=keepdim),
    "all": lambda x, dim=None, keepdim=False: jnp.all(x, _axes(dim), keepdims=keepdim),
    "argmax": lambda x, dim=None, keepdim=False: jnp.argmax(x, dim, keepdims=keepdim),
    "argmin": lambda x, dim=None, keepdim=False: jnp.argmin(x, dim, keepdims=keepdim),
    "max": jnp.max,
    "min": jnp.min,
    "cumsum": lambda x, dim, dtype=None: jnp.cumsum(x, dim, dtype=_dtype(dtype)),
    "scalar_tensor": lambda value, dtype=None: jnp.asarray(value, _dtype(dtype)),
    "full": lambda size, value, dtype=None: jnp.full(size, value, _dtype(dtype)),
    "full_like": lambda x, value, dtype=None: jnp.full(x.shape, value, _dtype(dtype) or x.dtype),
    "empty": lambda size, dtype="float32": jnp.zeros(size, _dtype(dtype)),
    "arange": lambda start, end=None, step=1, dtype=None: jnp.arange(start, end, step, _dtype(dtype)),
    "_to_copy": lambda x, dtype=None: x.astype(_dtype(dtype) or x.dtype),
}


def operator(*names: str) -> Callable[[Callable], Callable]:
    """Decorator that enters a function under one or several names."""

    def enter(function: Callable) -> Callable:
        ATEN.update(dict.fromkeys(names, function))
        return function

    return enter


def _axes(dim: Dims) -> int | tuple[int, ...] | None:
    return dim if dim is None or isinstance(dim, int) else tuple(dim) or None


def _dtype(name: str | None) -> Any:
    return name and jax.dtypes.canonicalize_dtype(name)


@operator("div")
def _div(x: Array, y: Array, rounding_mode: str | None = None) -> Array:
    quotient = jnp.true_divide(x, y)
    return {None: lambda q: q, "floor": jnp.floor, "trunc": jnp.trunc}[rounding_mode](quotient)


@operator("pow")
def _pow(x: Array, y: Any) -> Array:
    whole = isinstance(y, float) and y.is_integer()
    return jnp.power(x, int(y) if whole else y)  # with a whole exponent the derivative at 0 is finite


@operator("clamp", "clamp_min")
def _clamp(x: Array, low: Any = None, high: Any = None) -> Array:
    if low is not None:
        x = jnp.where(x < low, low, x).astype(x.dtype)
    return x if high is None else jnp.where(x > high, high, x).astype(x.dtype)


ATEN["clamp_max"] = lambda x, high: _clamp(x, None, high)


@operator("softplus")
def _softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    return jnp.where(x * beta > threshold, x, jax.nn.softplus(x * beta) / beta)


@operator("sum")
def _sum(x: Array, dim: Dims = None, keepdim: bool = False, dtype: str | None = None) -> Array:
    return jnp.sum(x, _axes(dim), dtype=_dtype(dtype), keepdims=keepdim)


@operator("mean")
def _mean(x: Array, dim: Dims = None, keepdim: bool = False, dtype: str | None = None) -> Array:
    return jnp.mean(x, _axes(dim), dtype=_dtype(dtype), keepdims=keepdim)


@operator("prod")
def _prod(x: Array, dim: Dims = None, keepdim: bool = False, dtype: str | None = None) -> Array:
    return jnp.prod(x, _axes(dim), dtype=_dtype(dtype), keepdims=keepdim)


@operator("var")
def _var(x: Array, dim: Dims = None, correction: float | None = 1, keepdim: bool = False) -> Array:
    return jnp.var(x, _axes(dim), correction=1 if correction is None else correction, keepdims=keepdim)


@operator("linalg_vector_norm")
def _norm(x: Array, order: float = 2, dim: Dims = None, keepdim: bool = False, dtype: str | None = None) -> Array:
    """The gradient where x is 0 is 0, as torch's."""
    if math.isinf(order):
        return (jnp.max if order > 0 else jnp.min)(jnp.abs(x), _axes(dim), keepdims=keepdim)
    total = jnp.sum(_pow(jnp.abs(x), float(order)), _axes(dim), keepdims=keepdim)
    return jnp.where(total == 0, 0, jnp.where(total == 0, 1, total) ** (1 / order))


@operator("_cdist_forward")
def _distances(x: Array, y: Array, order: float, mode: int | None = None) -> Array:
    return _norm(x[..., :, None, :] - y[..., None, :, :], order, -1)


@operator("sort")
def _sort(x: Array, dim: int = -1, descending: bool = False, stable: bool | None = None) -> tuple[Array, Array]:
    order = jnp.argsort(x, dim, descending=descending)
    return jnp.take_along_axis(x, order, dim), order


@operator("topk")
def _topk(x: Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Array, ...]:
    return tuple(lax.slice_in_dim(part, 0, k, axis=dim) for part in _sort(x, dim, largest))


@operator("kthvalue")
def _kthvalue(x: Array, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Array, ...]:
    return tuple(lax.index_in_dim(part, k - 1, dim, keepdims=keepdim) for part in _sort(x, dim))


@operator("median.dim")
def _median(x: Array, dim: int, keepdim: bool = False) -> tuple[Array, ...]:
    return _kthvalue(x, (x.shape[dim] + 1) // 2, dim, keepdim)


@operator("max.dim")
def _max_dim(x: Array, dim: int, keepdim: bool = False) -> tuple[Array, ...]:
    at = jnp.argmax(x, dim, keepdims=True)
    return tuple(part if keepdim else jnp.squeeze(part, dim) for part in (jnp.take_along_axis(x, at, dim), at))


@operator("min.dim")
def _min_dim(x: Array, dim: int, keepdim: bool = False) -> tuple[Array, Array]:
    values, at = _max_dim(-x, dim, keepdim)
    return -values, at


@operator("expand")
def _expand(x: Array, size: Sequence[int], implicit: bool = False) -> Array:
    old = (1,) * (len(size) - x.ndim) + x.shape
    return jnp.broadcast_to(x, [have if want == -1 else want for have, want in zip(old, size, strict=True)])


@operator("squeeze")
def _squeeze(x: Array, dim: Dims = None) -> Array:
    axes = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    return jnp.squeeze(x, tuple(axis for axis in axes if x.shape[axis] == 1))


def _slices(x: Array, dim: int, *bounds: int | None) -> tuple[slice, ...]:
    return (*[slice(None)] * (dim % x.ndim), slice(*bounds))


@operator("slice")
def _slice(x: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Array:
    return x[_slices(x, dim, start, end, step)]


@operator("slice_scatter")
def _slice_scatter(
    x: Array, source: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Array:
    return x.at[_slices(x, dim, start, end, step)].set(source)


@operator("select_scatter")
def _select_scatter(x: Array, source: Array, dim: int, index: int) -> Array:
    return x.at[(*[slice(None)] * (dim % x.ndim), index)].set(source)


@operator("index", "_unsafe_index")
def _index(x: Array, indices: Sequence[Array | None]) -> Array:
    return x[tuple(slice(None) if index is None else index for index in indices)]


@operator("index_put", "_unsafe_index_put")
def _index_put(x: Array, indices: Sequence[Array | None], values: Array, accumulate: bool = False) -> Array:
    at = x.at[tuple(slice(None) if index is None else index for index in indices)]
    return at.add(values) if accumulate else at.set(values)


@operator("as_strided")
def _as_strided(x: Array, size: Sequence[int], stride: Sequence[int], offset: int | None = None) -> Array:
    """Of a contiguous x."""
    places = np.tensordot(np.asarray(stride), np.indices(size), 1) + (offset or 0)
    return x.reshape(-1)[places]


@operator("constant_pad_nd")
def _pad(x: Array, pad: Sequence[int], value: float = 0.0) -> Array:
    """`pad` holds (before, after) of the last axis, then of the one before it, and so on; negative ones crop."""
    pairs = [(before, after, 0) for before, after in zip(pad[::2], pad[1::2], strict=True)][::-1]
    return lax.pad(x, jnp.asarray(value, x.dtype), [(0, 0, 0)] * (x.ndim - len(pairs)) + pairs)
