"""Images and labels: sources, splits, augmentation on the device. Read `sources` and `dataset` first."""

from clead_jax.data.augment import AugmentConfig, augment, to_float
from clead_jax.data.cache import located, remember, stamp
from clead_jax.data.dataset import Dataset
from clead_jax.data.sources import load
from clead_jax.data.splits import in_memory, subset, train_validation_split

__all__ = ["AugmentConfig", "Dataset", "augment", "in_memory", "load", "located", "remember", "stamp", "subset"]
__all__ += ["to_float", "train_validation_split"]
