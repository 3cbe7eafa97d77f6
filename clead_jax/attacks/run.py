"""Running a whole attack as one program, and combining the results of several."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from clead_jax.attacks.best_so_far import keep_better, nothing_yet
from clead_jax.core import numerics
from clead_jax.core.types import Array, Forward, Iterative, Key, Objective, PyTree

# Longer unrolled programs compile for minutes. Drive a long attack on a CPU from the host, one step at a time.
MOST_UNROLLED = 50


@numerics.promotion()
def run(
    attack: Iterative,
    forward: Forward,
    objective: Objective,
    x: Array,
    target: PyTree,
    keys: Key,
    cfg: Any,
    limit: Array | None = None,
    platform: str = "",
) -> Array:
    """The whole attack, as one compiled program when jitted.

    Args:
      attack: `ATTACKS[name].value`; `cfg` is an instance of `ATTACKS[name].config`.
      forward: images [B, ...] -> outputs [B, ...].
      objective: (outputs, target) -> [B], maximised; `ATTACKS[name].info["objective"]` is the attack's own.
      x: images [B, ...] float32 in [0, 1].
      target: labels int [B], `Targeted`, or what else the objective reads; leaves [B, ...].
      keys: typed keys [B], `fold_in(key, index in the data set)`: an example gets the same noise in any batch.
      limit: how many of its steps count, a number that jit may trace; the others are computed and change nothing.
      platform: what the program is compiled for, "" for jax's default; see `repeat`.

    Returns x_adv [B, ...] float32 in [0, 1]. No gradient flows back through it.
    """
    state = attack.init(forward, objective, x, target, keys, cfg)
    advance = lambda state: attack.step(forward, objective, state, cfg)
    if limit is None:
        state = repeat(attack.num_steps(cfg), advance, state, attack.forward_only, platform)
    else:
        first = state, jnp.zeros((), jnp.int32)
        state, _ = repeat(attack.num_steps(cfg), _limited(advance, limit), first, attack.forward_only, platform)
    return jax.lax.stop_gradient(attack.result(state))


def _limited(advance: Callable[[PyTree], PyTree], limit: Array) -> Callable[[PyTree], PyTree]:
    """`advance` of (state, steps made), which moves nothing from `limit` steps on."""

    def body(now: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        state, made = now
        moves = made + 1 <= limit
        return jax.tree.map(lambda new, old: jnp.where(moves, new, old), advance(state), state), made + 1

    return body


def worst_of(forward: Forward, objective: Objective, x_advs: Sequence[Array], target: PyTree) -> Array:
    """For every example the worst of several adversarial images [B, ...]: fooled first, then the highest objective."""
    best = nothing_yet(x_advs[0])
    for x_adv in x_advs:
        outputs = forward(x_adv)
        best = keep_better(best, x_adv, objective(outputs, target), outputs, target)
    return jax.lax.stop_gradient(best.x_adv)


def repeat(
    n: int, body: Callable[[PyTree], PyTree], state: PyTree, forward_only: bool = False, platform: str = ""
) -> PyTree:
    """body applied n times (n static): unrolled on the CPU, rolled elsewhere (see `numerics.unrolls`).

    Bodies without gradients (`forward_only`) stay rolled everywhere.
    """
    unroll = numerics.unrolls(platform) and not forward_only and n <= MOST_UNROLLED
    return jax.lax.fori_loop(0, n, lambda _, state: body(state), state, unroll=unroll)
