"""Images and labels: where they come from, how they are split, how they are augmented on the device."""

from clead_jax.data.augment import AugmentConfig, augment, to_float
from clead_jax.data.dataset import Dataset, Examples
from clead_jax.data.sources import load
from clead_jax.data.splits import subset, train_validation_split

__all__ = ["AugmentConfig", "Dataset", "Examples", "augment", "load", "subset", "to_float", "train_validation_split"]
