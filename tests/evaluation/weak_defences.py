"""Defences that only look robust. Each makes of a network `net(v, x, act=relu) -> logits` a `forward(v, x)`, or a
`forward(v, x, key)` where it says that it draws noise, that is right on clean images.

`DEFENCES` has them by name, each with who published it and how it was broken. Those that are mistakes nobody published
say so. Images are [B, H, W, C] in [0, 1], H and W multiples of 8. `weak_inputs` and `weak_networks` fill the list.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

MISTAKE = "no publication: a mistake seen in code"


class Defence(NamedTuple):
    """How a defence is made, and what is known of it."""

    make: Callable
    source: str
    broken: str
    randomized: bool  # it says so, and takes a key
    of_digits: bool  # it needs images of the training set


DEFENCES: dict[str, Defence] = {}


def defence(source, broken, randomized=False, of_digits=False):
    """Registers a defence under the name of its function."""

    def register(make):
        DEFENCES[make.__name__] = Defence(make, source, broken, randomized, of_digits)
        return make

    return register


def neighbours(x):
    """The nine pixels around each, [9, B, H, W, C]; the border is repeated."""
    wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = x.shape[1:3]
    return jnp.stack([wide[:, i : i + height, j : j + width] for i in range(3) for j in range(3)])
