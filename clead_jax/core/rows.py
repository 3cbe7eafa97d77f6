"""Rows of arrays that are larger than memory: selected and put end to end without being read.

A memory-mapped array is a numpy array whose bytes are read from disk when they are asked for, but selecting some of its
rows, or putting two of them end to end, would read them all. `take` and `joined` then return `Rows`, which read what is
asked of them; of arrays in memory they return arrays in memory. What reads images batch by batch takes both alike; who
needs all of them at once reads them first (`np.asarray`).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

BLOCK = 1024  # rows that are read at once where all of them are


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows `rows` [N] of some arrays [., ...] put end to end. An index along the first axis reads what it selects."""

    arrays: tuple[np.ndarray, ...]
    rows: np.ndarray

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, ...]."""
        return (len(self.rows), *self.arrays[0].shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """That of the arrays."""
        return self.arrays[0].dtype

    @property
    def ndim(self) -> int:
        """As of an array."""
        return self.arrays[0].ndim

    @property
    def size(self) -> int:
        """As of an array."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """What they would take in memory."""
        return self.size * self.dtype.itemsize

    def __getitem__(self, where: Any) -> np.ndarray:
        """The rows that a slice, an int array or a bool array selects; one row for an integer. TypeError for axes."""
        if isinstance(where, tuple):
            raise TypeError("rows on disk are selected along their first axis only")
        wanted = np.atleast_1d(self.rows[where])
        found, start = np.empty((len(wanted), *self.shape[1:]), self.dtype), 0
        for array in self.arrays:
            inside = (wanted >= start) & (wanted < start + len(array))
            found[inside] = array[wanted[inside] - start]
            start += len(array)
        return found if np.ndim(self.rows[where]) else found[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them, in memory."""
        return np.asarray(self[:], dtype)


def on_disk(array: Any) -> bool:
    """Whether the array's bytes are read when they are asked for."""
    return isinstance(array, Rows | np.memmap)


def take(array: np.ndarray | Rows, rows: np.ndarray) -> Any:
    """`array[rows]`, int [N]; `Rows` if the array is on disk."""
    if isinstance(array, Rows):
        return Rows(array.arrays, array.rows[rows])
    return Rows((array,), np.asarray(rows)) if on_disk(array) else array[rows]


def joined(first: np.ndarray | Rows, second: np.ndarray | Rows) -> Any:
    """Both end to end; `Rows` if one of them is on disk."""
    if not (on_disk(first) or on_disk(second)):
        return np.concatenate([first, second])
    ours, theirs = (a if isinstance(a, Rows) else Rows((a,), np.arange(len(a))) for a in (first, second))
    return Rows(ours.arrays + theirs.arrays, np.concatenate([ours.rows, sum(map(len, ours.arrays)) + theirs.rows]))


def blocks(array: np.ndarray | Rows) -> Iterator[np.ndarray]:
    """The array in order, `BLOCK` rows at a time; an array of no rows is one block."""
    for start in range(0, max(1, len(array)), BLOCK):
        yield array[start : start + BLOCK]
