"""How the training images reach the step: from the devices, which hold all of them, or batch by batch from the host.

Both give a step the same batch, to the bit. What is resident costs its size on every device and nothing in a step; what
is streamed costs two batches there, and the time that a disk takes to read one of them, beside the step before it.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from clead_jax.core import sharding
from clead_jax.core.types import Array, PyTree, Step
from clead_jax.training.state import Batch, Resident, gathered


class Supply(NamedTuple):
    """What the loop needs: its `step`, what that reads and does not train, and how index rows become its argument."""

    step: Step
    frozen: PyTree  # not laid out yet
    place: Callable[[np.ndarray], PyTree]  # [B] -> an argument of the step, on the devices
    in_turn: Callable[[Callable[[np.ndarray], PyTree], Iterator[np.ndarray]], Iterator[PyTree]]  # as `map`


def resident(step: Step, examples: Resident, mesh: jax.sharding.Mesh) -> Supply:
    """Every device holds all examples; of a batch the host sends the index alone."""
    place = lambda index: sharding.put(index.astype(np.int32), sharding.split(mesh))
    read = examples._replace(images=np.asarray(examples.images))
    return Supply(gathered(step), read, place, map)


def streamed(step: Step, examples: Resident, mesh: jax.sharding.Mesh) -> Supply:
    """The host reads a batch while the devices make the step before; each process reads the rows of its own devices.

    Raises ValueError for examples with neighbours, which are drawn among all images on the devices.
    """
    if examples.neighbours is not None:
        raise ValueError("neighbours are drawn on the devices, among all images: those cannot be streamed")
    layout = sharding.split(mesh)

    def of_rows(rows: Any, index: np.ndarray) -> Array:
        shape = (len(index), *rows.shape[1:])
        part = lambda where: np.ascontiguousarray(rows[index[where[0]]])  # those of one device
        return jax.make_array_from_callback(shape, layout, part)

    def place(index: np.ndarray) -> Batch:
        index = index.astype(np.int32)
        stored = None if examples.stored is None else of_rows(examples.stored, index)
        images, labels = of_rows(examples.images, index), sharding.put(examples.labels[index], layout)
        return Batch(images, labels, sharding.put(index, layout), stored)

    return Supply(step, examples.frozen, place, one_ahead)


def one_ahead(place: Callable[[np.ndarray], PyTree], rows: Iterator[np.ndarray]) -> Iterator[PyTree]:
    """`map(place, rows)`, of which the next one is made in a thread while the last is used."""
    with ThreadPoolExecutor(1) as reader:
        coming: deque[Future[PyTree]] = deque()
        for row in rows:
            coming.append(reader.submit(place, row))
            if len(coming) > 1:
                yield coming.popleft().result()
        yield from (each.result() for each in coming)
