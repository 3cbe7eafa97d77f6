"""Batches of examples: pixels as floats, keys per example, padding, batch sizes that programs are compiled for."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.core.types import Array, Key

SMALLEST = 16  # examples in a batch


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 images become float32 in [0, 1]; floats become float32."""
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)


def channels_first(shape: tuple[int, ...]) -> str:
    """What to do with images that are rather [N, C, H, W] than [N, H, W, C]: square, with 1 or 3 channels; else ''."""
    found = len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3] and shape[3] not in (1, 3)
    return "; channels come last: images.transpose(0, 2, 3, 1)" if found else ""


def example_keys(key: Key, index: np.ndarray | Array) -> Key:
    """One key per example [B], from its place in the data set: the same in any batch and on any device count."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(index))


def padded(n: int, batch_size: int) -> list[tuple[np.ndarray, int]]:
    """(rows [batch_size], how many of them are real) for each batch of n examples. Padding repeats the first row."""
    rows = [np.arange(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    return [(np.concatenate([r, np.full(batch_size - len(r), r[0])]), len(r)) for r in rows]


def rounded_up(n: int, multiple: int) -> int:
    """n to the next multiple."""
    return math.ceil(n / multiple) * multiple


def largest(fits: Callable[[int], bool], first: int, multiple: int, most: int = 2**20) -> int:
    """The largest batch that fits, a multiple of `multiple`, found by asking; 0 where not even `multiple` does.

    From `first` on it doubles or halves until the answer changes, then the gap is halved to an eighth of the batch.
    """
    good, bad, tried = 0, 0, rounded_up(first, multiple)
    while not (good and bad):
        if fits(tried):
            good, tried = tried, 2 * tried
            if tried > most:
                return good
        else:
            bad, tried = tried, (tried // 2) // multiple * multiple
            if not tried:
                return 0
    while bad - good > max(multiple, good // 8):
        middle = (good + bad) // 2 // multiple * multiple
        if middle <= good:  # the gap is of one multiple and a part
            middle = good + multiple
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def sizes(batch_size: int, multiple: int) -> list[int]:
    """The batch sizes of attacks, ascending: halves of the largest, each a multiple of 16 and of the devices."""
    if batch_size < 1:
        raise ValueError(f"the batch size is {batch_size}; it must be at least 1")
    least = math.lcm(SMALLEST, multiple)
    top = max(least, rounded_up(batch_size, least))
    return sorted({max(least, rounded_up(math.ceil(top / 2**n), least)) for n in range(20)})
