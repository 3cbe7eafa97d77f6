"""The form of an iterative attack, and the one place that decides how its steps are looped."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from clead_jax.types import Array, PyTree


class Iterative(NamedTuple):
    """An attack as pure functions (see `types.IterativeAttack`).

    Every leaf of the state is [B, ...], counters and keys included, so that a caller may gather the rows still
    standing, spread them over devices, or save them between two steps. Fields may share an array: call `init` under jit
    if `step` is to donate its state.
    """

    init: Callable[..., PyTree]  # (forward, objective, x, target, keys, cfg) -> state
    step: Callable[..., PyTree]  # (forward, objective, state, cfg) -> state
    result: Callable[[PyTree], Array]  # state -> x_adv
    done: Callable[[PyTree], Array]  # state -> bool [B]: more steps cannot help; a hint, for dropping rows
    num_steps: Callable[[Any], int]  # cfg -> how many steps make the attack
    forward_only: bool = False  # no gradients inside: many steps may be one rolled loop, on the CPU too


# Longer programs would compile for minutes. A long attack on a CPU is better driven from the host, one step at a time.
MOST_UNROLLED = 50


def repeat(n: int, body: Callable[[PyTree], PyTree], state: PyTree, forward_only: bool = False) -> PyTree:
    """body applied n times (n static): unrolled on the CPU, rolled elsewhere.

    XLA:CPU does not see gradients of convolutions inside a loop as convolutions, and takes up to 30 times longer.
    Bodies without gradients (`forward_only`) do not suffer and stay rolled.
    """
    unroll = jax.default_backend() == "cpu" and not forward_only and n <= MOST_UNROLLED
    return jax.lax.fori_loop(0, n, lambda _, state: body(state), state, unroll=unroll)
