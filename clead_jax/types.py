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
"""images [B, H, W, C] in [0, 1] -> outputs [B, ...] (logits or embeddings). Closes over variables and BatchNorm mode."""

Objective = Callable[[Array, PyTree], Array]
"""(outputs [B, ...], target) -> [B]; larger is worse for the model. `target`: labels int [B] or a `Targeted`."""

Loss = Callable[..., Array]
"""(z [B, V, D], labels [B], cfg, where=None) -> [B, V] per-anchor losses; 0 where there is no anchor or no positive."""

Metrics = dict[str, tuple[Array, Array]]
"""name -> (sum, count): added up over batches and divided once, so that padded tails never bias a mean."""


class Targeted(NamedTuple):
    """Target of a targeted attack: move an example of class `label` to class `goal`. Both int [B]; data, never static."""

    label: Array
    goal: Array


class IterativeAttack(Protocol):
    """Three pure functions and a step count. Every leaf of the state is [B, ...], so rows can be gathered and sharded."""

    def init(self, forward: Forward, objective: Objective, x: Array, target: PyTree, keys: Key, cfg: Any) -> PyTree: ...

    def step(self, forward: Forward, objective: Objective, state: PyTree, cfg: Any) -> PyTree: ...

    def result(self, state: PyTree) -> Array: ...

    def done(self, state: PyTree) -> Array: ...

    def num_steps(self, cfg: Any) -> int: ...


Step = Callable[[PyTree, PyTree, Array, Key], tuple[PyTree, Metrics]]
"""(state, frozen, index int [B], key) -> (state, metrics). `index` names rows of the resident data set, which is part of
`frozen`: what a step reads but does not train. An argument, never a closure: closed over, it becomes program constants."""
