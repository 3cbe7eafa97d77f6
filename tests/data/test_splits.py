import numpy as np
import pytest

from clead_jax.data.dataset import Dataset
from clead_jax.data.splits import hold_out, stratified_order, subset, train_validation_split, with_test_split

UNEVEN = np.repeat([0, 1, 2], [600, 300, 50])


def make_dataset(labels=UNEVEN):
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Dataset(
        "made up", images, labels.astype(np.int32), images[:10], labels[:10].astype(np.int32), ("a", "b", "c")
    )


def test_every_beginning_of_the_order_holds_the_classes_in_proportion():
    order = stratified_order(UNEVEN, seed=3)
    assert sorted(order) == list(range(950))
    counts = np.cumsum(UNEVEN[order][:, None] == np.arange(3), axis=0)
    expected = np.arange(1, 951)[:, None] * np.bincount(UNEVEN) / 950
    assert np.abs(counts - expected).max() <= 1


def test_the_order_is_shuffled_and_fixed_by_the_seed_for_good():
    assert (stratified_order(UNEVEN, 0) == stratified_order(UNEVEN, 0)).all()
    assert (stratified_order(UNEVEN, 0) != stratified_order(UNEVEN, 1)).mean() > 0.9
    assert stratified_order(np.repeat([0, 1], 4), seed=0).tolist() == [6, 2, 1, 7, 3, 5, 0, 4]  # moves no test split


@pytest.mark.parametrize(("part", "count"), [(0.2, 190), (0.001, 1), (1, 1), (190, 190), (190.0, 190)])
def test_a_part_is_a_share_below_one_and_a_count_from_one(part, count):
    kept, held_out = hold_out(UNEVEN, part)
    assert len(held_out) == count
    assert sorted([*kept, *held_out]) == list(range(950))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held_out) >= 1).all()


@pytest.mark.parametrize("part", [0, -0.1, 0.0001, 950, 1.5])
def test_a_part_that_empties_a_side_is_refused(part):
    with pytest.raises(ValueError, match=f"cannot hold out {part} of 950"):
        hold_out(UNEVEN, part)


def test_validation_is_carved_from_train_and_remembers_positions():
    dataset = make_dataset()
    training, validation = train_validation_split(dataset, 95, seed=1)
    assert np.bincount(validation.labels).tolist() == [60, 30, 5]
    for part in (training, validation):
        assert part.index.dtype == np.int32
        np.testing.assert_array_equal(part.images, dataset.train_images[part.index])
        np.testing.assert_array_equal(part.labels, dataset.train_labels[part.index])


def test_subsets_are_nested_balanced_and_keep_positions():
    whole = make_dataset()
    test = with_test_split("made up", whole.train_images, whole.train_labels, whole.class_names).test
    small, large = subset(test, 19), subset(test, 95)
    assert np.bincount(small.labels).tolist() == [12, 6, 1]
    assert set(small.index) < set(large.index)
    np.testing.assert_array_equal(large.labels, test.labels[large.index])
    assert (np.diff(large.index) > 0).all()
    for count in (0, 191):
        with pytest.raises(ValueError, match=f"cannot take {count} of 190"):
            subset(test, count)
