"""The vocabulary of the package: every room speaks in these types and imports nothing else of ours but `registry`.

Shapes are in brackets: B examples, V views, H x W pixels, C channels, D embedding dimensions, K classes.
Images are floats in [0, 1] everywhere outside the model; uint8 only on disk and in the resident data set.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Key = jax.Array
PyTree = Any

Forward = Callable[[Array], Array]
"""images [B, H, W, C] in [0, 1] -> outputs [B, ...], logits or embeddings; closes over variables and BatchNorm mode."""

Objective = Callable[[Array, PyTree], Array]
"""(outputs [B, ...], target) -> [B]; larger is worse for the model. `target`: labels int [B] or a `Targeted`."""

Loss = Callable[..., Array]
"""(z [B, V, D], labels [B], cfg, where=None) -> [B, V] losses; 0 where there is no anchor or no positive."""

Metrics = dict[str, tuple[Array, Array]]
"""name -> (sum, count): added up over batches and divided once, so that padded tails never bias a mean."""


class Targeted(NamedTuple):
    """Target of a targeted attack: move an example of class `label` to class `goal`. Both int [B], data."""

    label: Array
    goal: Array


class Iterative(NamedTuple):
    """An attack as pure functions over a state, so that a caller may drive it step by step.

    Every leaf of the state is [B, ...], counters and keys included: a caller may gather the rows still standing, spread
    them over devices, or save them between two steps. Fields may share an array: call `init` under jit if `step` is to
    donate its state.
    """

    init: Callable[..., PyTree]  # (forward, objective, x, target, keys, cfg) -> state
    step: Callable[..., PyTree]  # (forward, objective, state, cfg) -> state
    result: Callable[[PyTree], Array]  # state -> x_adv
    done: Callable[[PyTree], Array]  # state -> bool [B]: more steps cannot help; a hint, for dropping rows
    num_steps: Callable[[Any], int]  # cfg -> how many steps make the attack
    forward_only: bool = False  # no gradients inside: many steps may be one rolled loop, on the CPU too
    passes: Callable[[Any, int], tuple[int, int]] = lambda cfg, classes: (1, 1)  # forward and backward, in one step


Step = Callable[[PyTree, PyTree, Array, Key], tuple[PyTree, Metrics]]
"""(state, frozen, index int [B], key) -> (state, metrics). `index` names rows of the resident data set, which is part
of `frozen`: what a step reads but does not train. An argument: closed over, it would become constants."""
