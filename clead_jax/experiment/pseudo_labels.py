"""Pseudo-labels: the k-means clusters of an encoder's features, as many as there are classes.

As DynACL's post-stage has them (arXiv 2303.01289, Sec. 4.3). The features are of images not augmented; an encoder with
a second copy of BatchNorm for clean images uses that.
"""

import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans

from clead_jax.core.batches import pixels
from clead_jax.core.progress import log
from clead_jax.core.types import PyTree
from clead_jax.experiment import networks
from clead_jax.experiment.context import Run
from clead_jax.training import encoding

TRIES = 10  # starts of k-means, the best of which counts; ours
BATCH = 256


def clusters(run: Run, stage: str, variables: PyTree) -> np.ndarray:
    """The cluster of every training image, int32 [N], a function of the weights and the seed of the run alone."""
    features, images = networks.features(run.network_fields), run.splits.train.images
    clean, k = encoding.clean_route(variables), run.network.num_classes
    starts = range(0, len(images), BATCH)
    found = np.concatenate([features(clean, jnp.asarray(pixels(images[start : start + BATCH]))) for start in starts])
    labels = KMeans(k, n_init=TRIES, random_state=run.seed).fit_predict(found.astype(np.float64)).astype(np.int32)
    counts = np.bincount(labels, minlength=k)
    log.info(f"labels: {k} clusters of {stage}'s features, of {counts.min():,} to {counts.max():,} images")
    return labels
