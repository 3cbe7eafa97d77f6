"""BatchNorm and other constants folded: the same function of pixels, with less to compute.

    forward = folded(lambda x: model(x))

What does not depend on the pixels is computed once. What scales and shifts the channels of a convolution, a BatchNorm
in eval mode, becomes part of its kernel and one addition: s (conv(x, w) - m) + b = conv(x, s w) + (b - s m). This works
on the jaxpr, so no layer needs to be known; a convolution whose output is read twice stays as it is.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from clead_jax.core.types import Array, Forward

CALLS = ("jit", "pjit", "closed_call")  # equations that are nothing but the jaxpr inside


@dataclasses.dataclass(frozen=True)
class _Convolved:
    """scale * conv(image, kernel) + shift, not computed yet. `scale` and `shift`: [1, ..., C, ..., 1], or scalars."""

    equation: Any
    image: Array
    kernel: Array
    scale: Any = 1.0
    shift: Any = 0.0
    folds: bool = False

    def then(self, name: str, constant: Any, first: bool) -> "_Convolved | None":
        """This followed by an operation with a constant, which stands before it if `first`; None where that does not
        scale or shift whole channels.
        """
        axis, out = self.equation.params["dimension_numbers"].out_spec[1], self.equation.outvars[0].aval.shape
        shape, constant, scale, shift = np.shape(constant), np.asarray(constant), self.scale, self.shift
        if shape and (len(shape) != len(out) or set(shape[:axis] + shape[axis + 1 :]) != {1}):
            return None
        if name == "add":
            shift = shift + constant
        elif name == "sub":
            scale, shift = (-scale, constant - shift) if first else (scale, shift - constant)
        elif name == "mul":
            scale, shift = scale * constant, shift * constant
        elif name == "div" and not first:
            scale, shift = scale / constant, shift / constant
        else:
            return None
        return dataclasses.replace(self, scale=scale, shift=shift, folds=True)

    def value(self) -> Array:
        """The result, computed."""
        convolve = lambda kernel: self.equation.primitive.bind(self.image, kernel, **self.equation.params)
        if not self.folds:
            return convolve(self.kernel)
        axes = [1] * np.ndim(self.kernel)
        axes[self.equation.params["dimension_numbers"].rhs_spec[0]] = -1  # the output channels
        scale = np.reshape(self.scale, axes) if np.ndim(self.scale) else self.scale
        out = convolve(jnp.asarray(np.asarray(self.kernel) * scale, self.kernel.dtype))
        return out + jnp.asarray(self.shift, out.dtype)


def folded(forward: Forward, batch_norm: bool = True) -> Forward:
    """A function that computes what `forward` does. Without `batch_norm` only what depends on no pixel is folded."""
    return lambda x: _run_on(forward, x, [] if batch_norm else None)


def convolutions(forward: Forward, image: jax.ShapeDtypeStruct) -> int:
    """How many convolutions of `forward`, on arrays like `image`, take in what follows them."""
    taken: list[_Convolved] = []
    jax.eval_shape(lambda x: _run_on(forward, x, taken), image)
    return len(taken)


def _run_on(forward: Forward, x: Array, taken: list[_Convolved] | None) -> Array:
    closed = jax.make_jaxpr(forward)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    return _run(closed.jaxpr, closed.consts, [x], taken)[0]


def _run(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], taken: list[_Convolved] | None) -> list[Any]:
    """The outputs of a jaxpr. Adds every folded convolution to `taken`; None: folds nothing."""
    equation: Any
    inputs = [v for equation in jaxpr.eqns for v in equation.invars]
    reads = collections.Counter(v for v in (*inputs, *jaxpr.outvars) if not isinstance(v, Literal))
    found: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    read = lambda v: v.val if isinstance(v, Literal) else found[v]

    def value(v: Any) -> Any:
        if isinstance(pending := read(v), _Convolved):
            if pending.folds and taken is not None:
                taken.append(pending)
            found[v] = pending.value()
        return read(v)

    for equation in jaxpr.eqns:
        name, inputs = equation.primitive.name, equation.invars
        pending = [v for v in inputs if isinstance(read(v), _Convolved) and reads[v] == 1]
        constants = [v for v in inputs if not isinstance(read(v), jax.core.Tracer | _Convolved)]
        if len(pending) == len(constants) == 1 and len(inputs) == 2:
            after = found[pending[0]].then(name, read(constants[0]), first=constants[0] is inputs[0])
            if after is not None:
                found[equation.outvars[0]] = after
                continue
        values = [value(v) for v in inputs]
        if name == "conv_general_dilated" and taken is not None and [*constants] == [inputs[1]]:
            found[equation.outvars[0]] = _Convolved(equation, *values)
            continue
        found.update(zip(equation.outvars, _outputs(jaxpr, equation, values, taken), strict=True))
    return [value(v) for v in jaxpr.outvars]


def _outputs(jaxpr: Jaxpr, equation: Any, values: list[Any], taken: list[_Convolved] | None) -> list[Any]:
    """What an equation gives: computed now where it depends on no pixel, and on no symbolic batch size."""
    if equation.primitive.name in CALLS:
        inner = equation.params["jaxpr"]
        return _run(inner.jaxpr, inner.consts, values, taken)
    given = {v: value for v, value in zip(equation.invars, values, strict=True) if not isinstance(v, Literal)}
    alone = jaxpr.replace(constvars=[], invars=[*given], outvars=equation.outvars, eqns=[equation], debug_info=None)
    call = jaxpr_as_fun(ClosedJaxpr(alone, []))
    static = all(isinstance(size, int) for out in equation.outvars for size in out.aval.shape)
    now = static and not any(isinstance(v, jax.core.Tracer) for v in values)
    with jax.ensure_compile_time_eval() if now else contextlib.nullcontext():
        return call(*given.values())
