"""From the functions of an attack to adversarial images: in one program, or the worst of several."""

from collections.abc import Sequence
from typing import Any

import jax

from clead_jax.attacks import best_so_far as best_of
from clead_jax.attacks.loop import repeat
from clead_jax.core.types import Array, Forward, Iterative, Key, Objective, PyTree


def run(
    attack: Iterative, forward: Forward, objective: Objective, x: Array, target: PyTree, keys: Key, cfg: Any
) -> Array:
    """The whole attack, as one compiled program when jitted.

    Args:
      attack: `ATTACKS[name].value`.
      forward: images [B, ...] -> outputs [B, ...].
      objective: (outputs, target) -> [B], ascended; `ATTACKS[name].info["objective"]` is the attack's own.
      x: images [B, ...] float32 in [0, 1].
      target: labels int [B], `Targeted`, or what else the objective reads; leaves [B, ...].
      keys: typed keys [B], `fold_in(key, index in the data set)`: an example meets the same noise in any batch.
      cfg: an instance of `ATTACKS[name].config`.

    Returns:
      x_adv [B, ...] float32 in [0, 1]. No gradient flows back through it.
    """
    state = attack.init(forward, objective, x, target, keys, cfg)
    advance = lambda state: attack.step(forward, objective, state, cfg)
    state = repeat(attack.num_steps(cfg), advance, state, attack.forward_only)
    return jax.lax.stop_gradient(attack.result(state))


def worst_of(forward: Forward, objective: Objective, x_advs: Sequence[Array], target: PyTree) -> Array:
    """For every example the worst of several adversarial images [B, ...]: fooled first, then the highest objective."""
    best = best_of.nothing_yet(x_advs[0])
    for x_adv in x_advs:
        outputs = forward(x_adv)
        best = best_of.keep_better(best, x_adv, objective(outputs, target), outputs, target)
    return jax.lax.stop_gradient(best.x_adv)
