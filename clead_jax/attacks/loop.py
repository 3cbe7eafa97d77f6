"""The one place that decides how the steps of an attack are looped."""

from collections.abc import Callable

import jax

from clead_jax.core.types import PyTree

# Longer programs would compile for minutes. A long attack on a CPU is better driven from the host, one step at a time.
MOST_UNROLLED = 50


def repeat(n: int, body: Callable[[PyTree], PyTree], state: PyTree, forward_only: bool = False) -> PyTree:
    """body applied n times (n static): unrolled on the CPU, rolled elsewhere.

    XLA:CPU does not see gradients of convolutions inside a loop as convolutions, and takes up to 30 times longer.
    Bodies without gradients (`forward_only`) do not suffer and stay rolled.
    """
    unroll = jax.default_backend() == "cpu" and not forward_only and n <= MOST_UNROLLED
    return jax.lax.fori_loop(0, n, lambda _, state: body(state), state, unroll=unroll)
