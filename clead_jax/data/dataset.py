"""What a data source returns: two splits in memory, as uint8 numpy arrays (CIFAR-10 is 184 MB).

Training puts them on the device once; cropping and scaling to [0, 1] happen there (`augment`).
"""

from dataclasses import dataclass

import numpy as np

from clead_jax.core.types import Examples


@dataclass(frozen=True)
class Options:
    """Options of all sources; the fields are explained at `sources.load`."""

    data_dir: str | None = None
    cache_dir: str | None = None
    download: bool = True
    image_size: int | None = None


@dataclass(frozen=True)
class Dataset:
    """Images uint8 [N, H, W, C], C = 1 or 3, and labels int32 [N] in 0..K-1."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C)."""
        return self.train_images.shape[1:]

    @property
    def test(self) -> Examples:
        """The test split. (The train split is cut by `splits.train_validation_split`.)"""
        return Examples(self.test_images, self.test_labels, np.arange(len(self.test_labels), dtype=np.int32))


def check(dataset: Dataset) -> None:
    """Raises ValueError (one line) naming what is wrong: shape, type, label range, an empty class."""
    check_split(f"{dataset.name}, train", dataset.train_images, dataset.train_labels, dataset.num_classes)
    check_split(f"{dataset.name}, test", dataset.test_images, dataset.test_labels, dataset.num_classes)
    test_shape = dataset.test_images.shape[1:]
    if test_shape != dataset.image_shape:
        raise ValueError(f"{dataset.name}: train images are {dataset.image_shape}, test images {test_shape}")
    counts = np.bincount(dataset.train_labels, minlength=dataset.num_classes)
    if not counts.all():
        empty = int(np.argmin(counts))
        raise ValueError(f"{dataset.name}: class {empty} ({dataset.class_names[empty]!r}) has no image to train on")


def check_split(name: str, images: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    """The part of `check` that concerns one split."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(f"{name}: images of shape {images.shape}; allowed: [N, H, W, C] with C = 1 or 3, none empty")
    if images.dtype != np.uint8:
        raise ValueError(f"{name}: images of dtype {images.dtype}; allowed: uint8")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name}: labels {labels.dtype} {labels.shape}; allowed: integers ({len(images)},)")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.size:
        raise ValueError(f"{name}: label {outside[0]} is outside the classes 0..{num_classes - 1}")
