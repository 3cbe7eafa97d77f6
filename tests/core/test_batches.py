"""The largest batch that fits is found by asking seldom."""

import pytest

from clead_jax.core import batches


@pytest.mark.parametrize("multiple", [1, 8, 24])
@pytest.mark.parametrize("limit", [0, 7, 8, 100, 511, 512, 513, 3000, 70_000])
@pytest.mark.parametrize("first", [1, 512])
def test_the_largest_batch_that_fits(limit, multiple, first):
    asked = []

    def fits(size):
        asked.append(size)
        assert size % multiple == 0 and size > 0
        return size <= limit

    found = batches.largest(fits, first, multiple)
    best = limit // multiple * multiple
    assert found <= best and best - found <= max(multiple, found // 8)
    assert len(asked) == len(set(asked)) <= 24


def test_what_fits_at_any_size_ends():
    assert batches.largest(lambda size: True, 512, 8, most=4096) == 4096
