"""How many floating point operations a function asks for, counted from its jaxpr.

Only convolutions and matrix products count, a multiplication and an addition as two: the usual measure of a network's
work. Products with the zeros of padding and dilation do not count, so a convolution and its two gradients count alike.

XLA's own `compiled.cost_analysis()` is no replacement. It sees nothing inside library calls (cuDNN, cuBLAS), takes the
body of a loop for one round, and counts one device's part of a sharded program; where none of this is in the way, both
agree but for the elementwise operations that XLA counts too.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np


def count(fn: Callable[..., Any], *args: Any) -> int:
    """FLOPs of `fn(*args)`, which is traced and not run; args are arrays or `jax.ShapeDtypeStruct`s.

    Of the branches of a condition the dearest counts; a while loop, whose length nobody knows, counts as one round.
    """
    return _of_jaxpr(jax.make_jaxpr(fn)(*args).jaxpr)


def of_xla(fn: Callable[..., Any], *args: Any) -> float | None:
    """What XLA says of the program compiled for one device, or None where it says nothing."""
    told = jax.jit(fn).lower(*args).compile().cost_analysis() or {}
    return told.get("flops")


def _of_jaxpr(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [_of_jaxpr(jaxpr) for value in params.values() for jaxpr in _jaxprs(value)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _jaxprs(value: Any) -> Iterator[Any]:
    """The jaxprs in a parameter of an equation: itself, one that is closed over constants, or several."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from _jaxprs(item)
    elif hasattr(value, "eqns"):
        yield getattr(value, "jaxpr", value)


def _of_product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)


def _of_convolution(equation: Any) -> int:
    params = equation.params
    image, kernel = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape
    numbers = params["dimension_numbers"]  # where batch, features and pixels lie
    batch, features = (out[axis] for axis in numbers.out_spec[:2])
    taps = map(
        _taps,
        (image[axis] for axis in numbers.lhs_spec[2:]),
        (kernel[axis] for axis in numbers.rhs_spec[2:]),
        (out[axis] for axis in numbers.out_spec[2:]),
        params["window_strides"],
        (low for low, _ in params["padding"]),
        params["lhs_dilation"],
        params["rhs_dilation"],
    )
    return 2 * batch * features * kernel[numbers.rhs_spec[1]] * math.prod(taps)


def _taps(image: int, kernel: int, out: int, stride: int, padding: int, spread: int, dilation: int) -> int:
    """Along one axis: the pairs (output, kernel element) that meet a pixel, not a zero put before, between or after."""
    met = stride * np.arange(out)[:, None] + dilation * np.arange(kernel) - padding
    return int(((met >= 0) & (met <= spread * (image - 1)) & (met % spread == 0)).sum())
