"""The number of floating point operations of a function, counted from its jaxpr.

Only convolutions and matrix products count, a multiplication and an addition as two. Products with the zeros of padding
and dilation do not count, so a convolution and its two gradients count alike. XLA's own count (`of_xla`) is no
replacement: it misses library calls (cuDNN, cuBLAS), and counts the body of a loop once and only one device's part.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np


def count(fn: Callable[..., Any], *args: Any) -> int:
    """FLOPs of `fn(*args)`, which is traced and not run; args are arrays or `jax.ShapeDtypeStruct`s.

    Of the branches of a condition the most expensive counts; a while loop counts as one iteration; what every device
    of a mesh does to its own share counts for all of them.
    """
    return _of_jaxpr(jax.make_jaxpr(fn)(*args).jaxpr)


def of_xla(fn: Callable[..., Any], *args: Any) -> float | None:
    """XLA's count for the program compiled for one device, or None if there is none."""
    told = jax.jit(fn).lower(*args).compile().cost_analysis() or {}
    return told.get("flops")


def _of_jaxpr(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [_of_jaxpr(jaxpr) for value in params.values() for jaxpr in _jaxprs(value)]
    if name == "cond":
        return max(inner)
    if name == "shard_map":
        return sum(inner) * params["mesh"].size
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _jaxprs(value: Any) -> Iterator[Any]:
    """The jaxprs in a parameter of an equation: one, open or closed, or several."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from _jaxprs(item)
    elif hasattr(value, "eqns"):
        yield getattr(value, "jaxpr", value)


def _of_convolution(equation: Any) -> int:
    params = equation.params
    image, kernel = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape
    numbers = params["dimension_numbers"]  # axes of batch, features and pixels
    batch, features = (out[axis] for axis in numbers.out_spec[:2])
    layout = ((image, numbers.lhs_spec), (kernel, numbers.rhs_spec), (out, numbers.out_spec))
    sizes = ([shape[axis] for axis in spec[2:]] for shape, spec in layout)
    padding, dilations = [low for low, _ in params["padding"]], (params["lhs_dilation"], params["rhs_dilation"])
    taps = map(_taps, *sizes, params["window_strides"], padding, *dilations)
    return 2 * batch * features * kernel[numbers.rhs_spec[1]] * math.prod(taps)


def _taps(image: int, kernel: int, out: int, stride: int, padding: int, spread: int, dilation: int) -> int:
    """Along one axis: the pairs (output, kernel element) on a pixel, not on a zero of padding or dilation."""
    met = stride * np.arange(out)[:, None] + dilation * np.arange(kernel) - padding
    return int(((met >= 0) & (met <= spread * (image - 1)) & (met % spread == 0)).sum())
