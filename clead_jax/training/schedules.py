"""Numbers that change while a stage trains, as they are written: "linear(start=0,end=8/255,epochs=10)".

A list of them, "eps=linear(end=8/255,epochs=10),steps=steps(values=1:2:4,epochs=5:10)", is a stage's `schedules`. Each
value is computed from the number of the step inside the compiled program, which is one for the whole training.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from clead_jax.core import spec
from clead_jax.core.types import Array

Values = Callable[[Array], dict[str, Array]]
"""Number of the step -> {name: value}."""


@dataclass(frozen=True)
class Linear:
    """`start` for `begin` epochs, then in equal steps to `end` within `epochs` more (0: by the end), where it stays."""

    start: float = 0.0
    end: float = 1.0
    epochs: float = 0.0
    begin: float = 0.0

    def __post_init__(self) -> None:
        spec.check_ranges(self, epochs="[0, inf)", begin="[0, inf)")

    @property
    def ends(self) -> tuple[float, ...]:
        """The lowest and the highest value, in either order."""
        return self.start, self.end

    def share(self, epoch: Array, total: float) -> Array:
        """How much of the way from `start` to `end` is made, in [0, 1]."""
        length = self.epochs or max(total - self.begin, 1e-6)
        return jnp.clip((epoch - self.begin) / length, 0, 1)

    def value(self, epoch: Array, total: float) -> Array:
        """After `epoch` of `total` epochs, fractions too."""
        return self.start + (self.end - self.start) * self.share(epoch, total)


@dataclass(frozen=True)
class Cosine(Linear):
    """As `Linear`, along half a cosine."""

    def share(self, epoch: Array, total: float) -> Array:
        """As `Linear.share`."""
        return (1 - jnp.cos(jnp.pi * super().share(epoch, total))) / 2


@dataclass(frozen=True)
class Steps:
    """The first of `values`, and after each of the `epochs` the next. ValueError for epochs that do not rise or fit."""

    values: tuple[float, ...] = ()
    epochs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in itertools.pairwise((0, *self.epochs)))
        if len(self.values) != len(self.epochs) + 1 or not rising:
            raise ValueError("write rising epochs and one value more: steps(values=0.02:0.05:0.1,epochs=10:20)")

    @property
    def ends(self) -> tuple[float, ...]:
        """All values."""
        return self.values

    def value(self, epoch: Array, total: float) -> Array:
        """After `epoch` epochs."""
        return jnp.asarray(self.values)[jnp.sum(epoch >= jnp.asarray(self.epochs))]


SCHEDULES: dict[str, Any] = {"linear": Linear, "cosine": Cosine, "steps": Steps}


def parse(text: str) -> dict[str, Any]:
    """'eps=linear(end=0.1),steps=steps(values=1:2,epochs=5)' -> {name: schedule}. ValueError for what is none."""
    found: dict[str, Any] = {}
    for item in spec.items(text):
        name, equals, written = item.partition("=")
        if not (equals and name.isidentifier()) or name in found:
            raise ValueError(f"schedules: {item!r}; write each name once, as eps=linear(start=0,end=8/255,epochs=10)")
        if (kind := spec.parse(written)[0]) not in SCHEDULES:
            raise ValueError(f"schedules: unknown schedule {kind!r} of {name}; known: {', '.join(SCHEDULES)}")
        found[name] = spec.settings(written, "schedule", SCHEDULES[kind], {})
    return found


def values(text: str, epochs: int, steps_per_epoch: int) -> Values:
    """The values of `parse` in a training of `epochs` epochs."""
    rules = parse(text)
    return lambda step: {name: rule.value(step / steps_per_epoch, epochs) for name, rule in rules.items()}
