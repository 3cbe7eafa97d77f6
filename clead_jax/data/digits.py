"""1797 handwritten digits of 8 x 8 pixels, which come with scikit-learn: small enough for a CPU."""

import numpy as np

from clead_jax.core.registry import SOURCES
from clead_jax.data.dataset import Dataset, Options
from clead_jax.data.splits import hold_out

TEST_COUNT = 360


@SOURCES.register("digits")
def digits(argument: str, options: Options) -> Dataset:
    """Images uint8 [N, 8, 8, 1] of 17 grey levels: 1437 to train on, 360 to test (from the UCI optical digits)."""
    from sklearn.datasets import load_digits  # takes a second

    if argument:
        raise ValueError(f"data set 'digits' takes no argument, not {argument!r}")
    images, labels = load_digits(return_X_y=True)
    images = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    labels = labels.astype(np.int32)
    train, test = hold_out(labels, TEST_COUNT)
    return Dataset("digits", images[train], labels[train], images[test], labels[test], tuple("0123456789"))
