"""What a data source returns: two splits as uint8 numpy arrays, in memory (CIFAR-10 is 184 MB) or memory-mapped.

Training puts them on the device once, or hands every step its batch; cropping and scaling to [0, 1] happen there
(`augment`).
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clead_jax.core.batches import channels_first
from clead_jax.core.rows import Rows, blocks
from clead_jax.core.types import Examples, fingerprint

MOST_CLASSES = 1_000_000  # a larger label is an error: memory is proportional to K
UNKNOWN = -1  # the label of an image that has none


@dataclass(frozen=True)
class Options:
    """Options of all sources; the fields are explained at `sources.load`."""

    data_dir: str | None = None
    cache_dir: str | None = None
    download: bool = True
    image_size: int | None = None
    whole: bool = False
    in_memory: float = float("inf")


@dataclass(frozen=True)
class Dataset:
    """Images uint8 [N, H, W, C], C = 1 or 3, and labels int32 [N] in 0..K-1. Without labels K is 0, all are UNKNOWN."""

    name: str
    train_images: np.ndarray  # of images on disk a memory-mapped array, or `Rows` of one
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what else is to be said of how it was read

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

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of "train" and "test" 16 hexadecimal digits that change with any image, label or class name of that split."""
        splits = {"train": (self.train_images, self.train_labels), "test": (self.test_images, self.test_labels)}
        return {split: fingerprint(*arrays, "\n".join(self.class_names)) for split, arrays in splits.items()}

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any image or label, the splits, the class names."""
        return fingerprint(*self.fingerprints.values())

    def __str__(self) -> str:
        """What was understood, in one line: sizes, classes and their balance, channels, range of values, splits."""
        height, width, channels = self.image_shape
        low, high = extremes(self.train_images)
        known = [labels[labels >= 0] for labels in (self.train_labels, self.test_labels)]
        sizes = [np.bincount(labels, minlength=self.num_classes) for labels in known]
        some = ", ".join(map(shown, self.class_names[:5])) + (", ..." if self.num_classes > 5 else "")
        parts = [
            f"{self.name}: {len(self.train_labels)} images to train on, {len(self.test_labels)} to test on",
            f"{width}x{height} {'grey' if channels == 1 else 'RGB'}",
            f"values {low} to {high} of 255",
            f"{self.num_classes} classes ({some}) of " + " and ".join(f"{n.min()} to {n.max()}" for n in sizes)
            if self.num_classes
            else "without labels",
        ]
        return ", ".join(parts) + "".join(f"; {note}" for note in self.notes)


def extremes(images: np.ndarray | Rows) -> tuple[int, int]:
    """The lowest and the highest of all values."""
    found = [(block.min(), block.max()) for block in blocks(images)]
    return min(low for low, _ in found), max(high for _, high in found)


def shown(name: str | Path) -> str:
    """A name as text for messages: what cannot be printed, or is no UTF-8, is escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def to_labels(labels: np.ndarray, name: str) -> np.ndarray:
    """Labels as int32. Raises ValueError, naming them, for what is no integer or cannot be a class."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} are {labels.dtype}; allowed: integers 0..K-1")
    outside = labels[(labels < 0) | (labels >= MOST_CLASSES)]
    if outside.size:
        raise ValueError(f"{name} hold {outside[0]}; allowed: integers 0..K-1")
    return labels.astype(np.int32)


def check(dataset: Dataset) -> None:
    """Raises ValueError (one line) naming what is wrong: shape, type, label range, an empty class, only one class."""
    check_split(f"{dataset.name}, train", dataset.train_images, dataset.train_labels, dataset.num_classes)
    check_split(f"{dataset.name}, test", dataset.test_images, dataset.test_labels, dataset.num_classes)
    test_shape = dataset.test_images.shape[1:]
    if test_shape != dataset.image_shape:
        raise ValueError(f"{dataset.name}: train images are {dataset.image_shape}, test images {test_shape}")
    names = dataset.class_names
    if not names and (np.concatenate([dataset.train_labels, dataset.test_labels]) == UNKNOWN).all():
        return
    if len(names) < 2 or len(set(names)) < len(names):
        found = "no class" if not names else f"only class {names[0]!r}" if len(names) < 2 else "two classes of one name"
        raise ValueError(f"{dataset.name}: {found}; a classifier needs two classes at least, each with its own name")
    counts = np.bincount(dataset.train_labels, minlength=dataset.num_classes)
    if not counts.all():
        empty = int(np.argmin(counts))
        raise ValueError(f"{dataset.name}: class {empty} ({dataset.class_names[empty]!r}) has no image to train on")


def check_split(name: str, images: np.ndarray | Rows, labels: np.ndarray, num_classes: int) -> None:
    """The part of `check` that concerns one split."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        allowed = "allowed: [N, H, W, C] with C = 1 or 3, none empty"
        raise ValueError(f"{name}: images of shape {images.shape}; {allowed}{channels_first(images.shape)}")
    if images.dtype != np.uint8:
        raise ValueError(f"{name}: images of dtype {images.dtype}; allowed: uint8")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name}: labels {labels.dtype} {labels.shape}; allowed: integers ({len(images)},)")
    outside = labels[(labels >= num_classes) | (labels < (0 if num_classes else UNKNOWN))]
    if outside.size:
        raise ValueError(f"{name}: label {outside[0]} is outside the classes 0..{num_classes - 1}")
