"""The batch size that is fastest and fits: found by trying, because it depends on model and machine."""

import time
from collections.abc import Callable

import jax
import numpy as np

from clead_jax.core.types import Objective, PyTree
from clead_jax.evaluation.verify import Evaluator, pixels

GAIN = 1.1  # twice the rows must be this much faster per row
LARGEST = 2048


def automatic(
    evaluator: Evaluator, variables: PyTree, images: np.ndarray, labels: np.ndarray, objective: Objective, least: int
) -> int:
    """The batch size, a multiple of `least`, at which gradients come fastest.

    Sizes double from `least` on, until that is no longer faster, until memory runs out, or until all images fit.
    """

    def seconds(size: int) -> float:
        rows = np.arange(size) % len(images)
        x, y = evaluator.place(pixels(images[rows])), evaluator.place(labels[rows].astype(np.int32))
        key = jax.random.key(0)
        return _best_of_two(lambda: evaluator.programs.gradient(objective, variables, x, y, key))

    return fastest(seconds, least, min(LARGEST, 2 * len(images)))


def fastest(seconds: Callable[[int], float], least: int, most: int) -> int:
    """The size with the highest size / seconds(size) among least, 2 least, 4 least ... below `most`."""
    best, pace = least, least / seconds(least)
    while 2 * best < most:
        try:
            now = 2 * best / seconds(2 * best)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            break
        if now < GAIN * pace:
            break
        best, pace = 2 * best, now
    return best


def _best_of_two(call: Callable[[], PyTree]) -> float:
    jax.block_until_ready(call())  # compiles
    times = []
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)
