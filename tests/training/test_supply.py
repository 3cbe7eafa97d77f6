"""Batches from the host: those that the devices would gather themselves, and read one ahead of their use."""

import threading

import jax
import numpy as np
import pytest

from clead_jax.core import numerics, sharding
from clead_jax.core.rows import take
from clead_jax.training import supply
from clead_jax.training.state import Frozen, Resident

IMAGES = np.random.RandomState(0).randint(0, 256, (40, 4, 4, 3)).astype(np.uint8)


def show(state, frozen, batch, key):
    """A step that returns its batch."""
    return state, batch


@pytest.mark.parametrize("views", [0, 2])
def test_both_hand_the_step_the_same_batch_laid_out_alike(tmp_path, views):
    mesh, index = sharding.data_mesh(), np.random.RandomState(1).permutation(40)[:16]
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = take(np.load(tmp_path / "images.npy", mmap_mode="r"), np.arange(40))
    stored = np.stack([IMAGES[::-1]] * views, axis=1) if views else None
    examples = Resident(Frozen({"w": np.ones(3)}), IMAGES, np.arange(40, dtype=np.int32), stored)
    found = []
    ours, theirs = supply.resident(show, examples, mesh), supply.streamed(show, examples._replace(images=mapped), mesh)
    for supplied in (ours, theirs):
        frozen = sharding.put(supplied.frozen, sharding.replicated(mesh))
        found.append(jax.jit(supplied.step)(0, frozen, supplied.place(index), numerics.key(0))[1])
    resident, streamed = found
    assert jax.tree.structure(resident) == jax.tree.structure(streamed)
    for ours, theirs in zip(*map(jax.tree.leaves, found), strict=True):
        assert ours.dtype == theirs.dtype and ours.sharding.is_equivalent_to(theirs.sharding, ours.ndim)
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(streamed.images, IMAGES[index])


def test_only_the_batch_is_on_the_devices(tmp_path):
    """Each device gets the rows of its own part, and no other."""
    mesh, asked = sharding.data_mesh(), []

    class Watched:
        shape = IMAGES.shape

        def __getitem__(self, rows):
            asked.append(rows.tolist())
            return IMAGES[rows]

    examples = Resident(Frozen({}), Watched(), np.arange(40, dtype=np.int32))
    batch = supply.streamed(show, examples, mesh).place(np.arange(16)[::-1])
    assert sorted(asked) == sorted([15 - 2 * n, 14 - 2 * n] for n in range(8))
    assert {shard.data.shape for shard in batch.images.addressable_shards} == {(2, 4, 4, 3)}


def test_neighbours_are_refused():
    examples = Resident(Frozen({}), IMAGES, np.arange(40), neighbours=np.zeros((40, 1), int))
    with pytest.raises(ValueError, match="neighbours are drawn on the devices"):
        supply.streamed(show, examples, sharding.data_mesh())


def test_the_next_batch_is_read_while_the_last_is_used():
    read = [threading.Event() for _ in range(4)]

    def place(row):
        read[row].set()
        return 10 * row

    coming = supply.one_ahead(place, iter(range(4)))
    assert next(coming) == 0 and read[1].wait(10) and not read[2].is_set()
    assert next(coming) == 10 and read[2].wait(10) and not read[3].is_set()
    assert list(coming) == [20, 30] and list(supply.one_ahead(place, iter(()))) == []


def test_an_error_of_the_reader_is_raised_where_the_batch_is_asked_for():
    def place(row):
        if row == 1:
            raise OSError("the disk is gone")
        return row

    coming = supply.one_ahead(place, iter(range(3)))
    assert next(coming) == 0
    with pytest.raises(OSError, match="the disk is gone"):
        next(coming)
