"""Rows of arrays on disk: what they select, put end to end, and that nothing is read before it is asked for."""

import numpy as np
import pytest

from clead_jax.core.rows import BLOCK, Rows, blocks, joined, on_disk, take
from clead_jax.core.types import fingerprint

ARRAY = np.random.RandomState(0).randint(0, 256, (40, 3, 2, 1)).astype(np.uint8)


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "array.npy", ARRAY)
    return np.load(tmp_path / "array.npy", mmap_mode="r")


def test_in_memory_they_are_numpys():
    rows = np.array([3, 1, 1])
    assert not on_disk(take(ARRAY, rows)) and not on_disk(joined(ARRAY, ARRAY))
    np.testing.assert_array_equal(take(ARRAY, rows), ARRAY[rows])
    np.testing.assert_array_equal(joined(ARRAY, ARRAY[:2]), np.concatenate([ARRAY, ARRAY[:2]]))


def test_on_disk_they_select_what_numpy_selects(mapped):
    rows = np.array([7, 0, 39, 7, 12])
    found, expected = take(mapped, rows), ARRAY[rows]
    assert isinstance(found, Rows) and (found.shape, found.dtype, found.ndim) == (expected.shape, np.uint8, 4)
    assert (len(found), found.size, found.nbytes) == (5, expected.size, expected.nbytes)
    for where in (slice(1, 3), slice(None, None, 2), np.array([4, 0, 0]), np.arange(5) % 2 == 0, 3, slice(0, 0)):
        np.testing.assert_array_equal(found[where], expected[where])
    np.testing.assert_array_equal(np.asarray(found), expected)
    np.testing.assert_array_equal(np.asarray(take(found, np.array([4, 2]))), expected[[4, 2]])
    with pytest.raises(TypeError, match="first axis only"):
        found[..., 0]


def test_end_to_end_with_one_in_memory(mapped):
    for first, second in ((mapped, ARRAY[:5]), (ARRAY[:5], take(mapped, np.array([9, 2]))), (mapped, mapped)):
        whole, expected = joined(first, second), np.concatenate([first, second])
        assert on_disk(whole) and whole.shape == expected.shape
        order = np.random.RandomState(1).permutation(len(expected))
        np.testing.assert_array_equal(whole[order], expected[order])
        np.testing.assert_array_equal(take(whole, order)[2:9], expected[order][2:9])


def test_a_fingerprint_does_not_tell_where_an_array_lies(mapped):
    rows = np.arange(3, 30)
    assert fingerprint(take(mapped, rows)) == fingerprint(ARRAY[rows]) == fingerprint(mapped[3:30])
    assert fingerprint(take(mapped, rows)) != fingerprint(ARRAY[rows[::-1]])
    assert fingerprint(np.float32(1)) != fingerprint(np.asarray(1, np.float32)) == fingerprint(np.ones((), np.float32))


def test_blocks_hold_every_row_once():
    array = np.arange(2 * BLOCK + 3)
    found = list(blocks(array))
    assert [len(block) for block in found] == [BLOCK, BLOCK, 3]
    np.testing.assert_array_equal(np.concatenate(found), array)
    assert [len(block) for block in blocks(array[:0])] == [0]
