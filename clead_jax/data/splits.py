"""Held-out splits and subsets; of images on disk they are rows that are read later.

`stratified_order` shuffles the examples so that every prefix of the list holds the classes in proportion. A held-out
split is a prefix, and a subset of 1000 contains the subset of 500.
"""

import numpy as np

from clead_jax.core.rows import blocks, take
from clead_jax.core.types import Examples
from clead_jax.data.dataset import Dataset, check_split

TEST_SHARE = 0.2


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """A permutation [N] whose first n entries hold each class within one example of its share n/N; fixed by `seed`."""
    # RandomState's streams never change, unlike those of default_rng: a split must stay the same.
    shuffled = np.random.RandomState(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)  # each class spread evenly over (0, 1)
    return shuffled[np.argsort(place[shuffled], kind="stable")]


def hold_out(labels: np.ndarray, part: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positions int32 (kept, held out), each sorted, stratified. `part` below 1 is a share, from 1 on a count.

    Raises ValueError where either side would be empty or the count is not whole.
    """
    count = round(part * len(labels)) if part < 1 else part
    if count != int(count) or not 0 < count < len(labels):
        raise ValueError(f"cannot hold out {part} of {len(labels)} examples; allowed: a share below 1, or a count")
    order = stratified_order(labels, seed).astype(np.int32)
    return np.sort(order[int(count) :]), np.sort(order[: int(count)])


def train_validation_split(dataset: Dataset, validation: float, seed: int = 0) -> tuple[Examples, Examples]:
    """The train split cut in (training, validation), stratified. `validation` is a share below 1 or a count."""
    images, labels = dataset.train_images, dataset.train_labels
    training, held_out = (Examples(take(images, i), labels[i], i) for i in hold_out(labels, validation, seed))
    return training, held_out


def with_test_split(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    notes: tuple[str, ...] = (),
    whole: bool = False,
) -> Dataset:
    """A data set without a test split of its own: a fifth of every class is held out, the same at every start.

    With `whole` it is not, and the test split is a copy.
    """
    check_split(name, images, labels, len(class_names))
    if whole:
        return Dataset(name, images, labels, images, labels, class_names, (*notes, "none held out"))
    train, test = hold_out(labels, TEST_SHARE)
    notes = (*notes, "a fifth held out to test on")
    parts = (take(images, train), labels[train], take(images, test), labels[test])
    return Dataset(name, *parts, class_names, notes)


def subset(examples: Examples, count: int, seed: int = 0) -> Examples:
    """`count` of the examples, classes in proportion, in their old order. ValueError unless 1 <= count <= N."""
    total = len(examples.labels)
    if not 1 <= count <= total:
        raise ValueError(f"cannot take {count} of {total} examples; allowed: 1 to {total}")
    chosen = np.sort(stratified_order(examples.labels, seed)[:count])
    return Examples(take(examples.images, chosen), examples.labels[chosen], examples.index[chosen])


def in_memory(examples: Examples) -> Examples:
    """The same examples, their images read if they are on disk."""
    return Examples(np.asarray(examples.images), examples.labels, examples.index)


def pixel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of uint8 images [N, H, W, C], in [0, 1] units, to four places.

    From counts of levels: float32 sums over all of CIFAR lose precision at 2^24.
    """
    level = np.arange(256) / 255
    channels = range(images.shape[-1])
    count = lambda block: np.stack([np.bincount(block[..., c].ravel(), minlength=256) for c in channels])
    counts = np.sum([count(block) for block in blocks(images)], axis=0)
    share = counts / counts[0].sum()
    mean = share @ level
    std = np.sqrt(share @ level**2 - mean**2)
    return mean.round(4).tolist(), np.maximum(std, 1e-3).round(4).tolist()
