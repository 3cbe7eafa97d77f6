"""The vocabulary of the package: every room speaks in these types and imports nothing else of ours but `registry`.

Shapes are in brackets: B examples, V views, H x W pixels, C channels, D embedding dimensions, K classes.
Images are floats in [0, 1] everywhere outside the model; uint8 only on disk and in the resident data set.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

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


class IterativeAttack(Protocol):
    """Pure functions over a state whose every leaf is [B, ...], so that its rows can be gathered and sharded."""

    @property
    def init(self) -> Callable[..., PyTree]:
        """(forward, objective, x, target, keys, cfg) -> state."""

    @property
    def step(self) -> Callable[..., PyTree]:
        """(forward, objective, state, cfg) -> state."""

    @property
    def result(self) -> Callable[[PyTree], Array]:
        """(state) -> x_adv."""

    @property
    def done(self) -> Callable[[PyTree], Array]:
        """(state) -> bool [B]: more steps cannot help; a hint."""

    @property
    def num_steps(self) -> Callable[[Any], int]:
        """(cfg) -> how many steps make the attack."""

    @property
    def forward_only(self) -> bool:
        """Whether steps take no gradients: such loops may stay rolled on the CPU."""


Step = Callable[[PyTree, PyTree, Array, Key], tuple[PyTree, Metrics]]
"""(state, frozen, index int [B], key) -> (state, metrics). `index` names rows of the resident data set, which is part
of `frozen`: what a step reads but does not train. An argument: closed over, it would become constants."""
