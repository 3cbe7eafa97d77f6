"""The batch size that is fastest and fits: found by trying, because it depends on model and machine."""

import timeit
from collections.abc import Callable

import jax
import numpy as np

from clead_jax.attacks.objectives import OBJECTIVES
from clead_jax.core import memory, numerics
from clead_jax.core.batches import pixels, sizes
from clead_jax.core.types import Examples
from clead_jax.evaluation.classifier import Compiled

GAIN = 1.1  # twice the rows must be this much faster per row
LARGEST = 2048


def fastest_batch(model: Compiled, examples: Examples) -> int:
    """The batch size at which gradients come fastest, of those that attacks use, as far as memory and images go."""

    def seconds(size: int) -> float:
        rows, key = np.arange(size) % len(examples.images), numerics.key(0)
        x, y = model.place(pixels(examples.images[rows])), model.place(examples.labels[rows].astype(np.int32))
        gradient = lambda: model.programs.gradient(OBJECTIVES["cross_entropy"], model.variables, x, y, key)
        return min(
            timeit.repeat(lambda: jax.block_until_ready(gradient()), number=1, repeat=3)[1:]
        )  # the first compiles

    return fastest(seconds, sizes(1, model.mesh.size)[0], min(LARGEST, 2 * len(examples.images)))


def fastest(seconds: Callable[[int], float], least: int, most: int) -> int:
    """The size with the highest size / seconds(size) among least, 2 least, 4 least ... below `most`."""
    best, pace = least, least / seconds(least)
    while 2 * best < most:
        try:
            now = 2 * best / seconds(2 * best)
        except jax.errors.JaxRuntimeError as error:
            if not memory.exhausted(error):
                raise
            break
        if now < GAIN * pace:
            break
        best, pace = 2 * best, now
    return best
