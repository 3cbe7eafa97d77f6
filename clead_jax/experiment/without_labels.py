"""What a stage learns from where labels are missing: pseudo-labels, and nearest neighbours in another stage's features.

All are functions of frozen weights, the images as they are and the seed of the run, and are found again at every start.
An encoder with a second copy of BatchNorm for clean images uses that.

    kmeans   k-means clusters of the features, as many as there are classes (DynACL's post-stage, arXiv 2303.01289, Sec.
             4.3), or of the projections
    head     what the linear layer of the stage says: of one trained on pseudo-labels itself, or on neighbours (SCAN)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans

from clead_jax.core import spec
from clead_jax.core.batches import pixels
from clead_jax.core.progress import log
from clead_jax.core.types import Array, PyTree
from clead_jax.experiment import builders, networks
from clead_jax.training import encoding

TRIES = 10  # starts of k-means, the best of which counts; ours
BATCH = 256


@dataclass(frozen=True)
class Clusters:
    """`of`: backbone, whose outputs are the features, or projector."""

    of: str = "backbone"

    def __post_init__(self) -> None:
        if self.of not in encoding.PARTS:
            raise ValueError(f"of is {self.of!r}; it can be {', '.join(encoding.PARTS)}")

    def labels(self, fields: dict[str, Any], variables: PyTree, images: np.ndarray, seed: int) -> np.ndarray:
        """The cluster of every image, int32 [N]."""
        features, outputs = networks.features(fields), encoding.outputs(builders.network(fields), (self.of,))
        compared = jax.jit(lambda v, h: outputs(v, h, False)[0][0])
        found = _of_all(lambda v, x: compared(v, features(v, x)), variables, images)
        means = KMeans(fields["num_classes"], n_init=TRIES, random_state=seed)
        return means.fit_predict(found.astype(np.float64)).astype(np.int32)


@dataclass(frozen=True)
class Head:
    """The likeliest class."""

    def labels(self, fields: dict[str, Any], variables: PyTree, images: np.ndarray, seed: int) -> np.ndarray:
        """The class of every image, int32 [N]."""
        logits = _of_all(jax.jit(networks.classifier(fields).forward), variables, images)
        return logits.argmax(-1).astype(np.int32)


WAYS: dict[str, Any] = {"kmeans": Clusters, "head": Head}


def way(text: str) -> Clusters | Head:
    """'kmeans(of=projector)' -> how labels are made. ValueError for another name or setting."""
    name, _ = spec.parse(text)
    if name not in WAYS:
        raise ValueError(f"pseudo_labels_by is {text!r}; it can be {', '.join(WAYS)}")
    return spec.settings(text, "way", WAYS[name], {})


def pseudo_labels(
    fields: dict[str, Any], variables: PyTree, images: np.ndarray, by: str, of: str, seed: int
) -> np.ndarray:
    """The labels, int32 [N], that the variables of the stage `of` give to images uint8 [N, H, W, C].

    `fields` are those of `builders.network_fields`.
    """
    labels = way(by).labels(fields, variables, images, seed)
    counts = np.bincount(labels, minlength=fields["num_classes"])
    log.info(f"labels: by {by} of {of}, {len(counts)} of {counts.min():,} to {counts.max():,} images")
    return labels


def neighbours(fields: dict[str, Any], variables: PyTree, images: np.ndarray, count: int) -> np.ndarray:
    """int32 [N, count]: the rows of the other images whose features have the largest cosine, the nearest first.

    Raises ValueError where there are not so many.
    """
    if count >= len(images):
        raise ValueError(f"neighbour_count is {count}, but there are only {len(images) - 1} other images")
    features = _of_all(networks.features(fields), variables, images)
    unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)

    @jax.jit
    def nearest(rows: Array, own: Array) -> Array:
        similar = jnp.matmul(rows, unit.T, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.top_k(jnp.where(own[:, None] == jnp.arange(len(unit)), -jnp.inf, similar), count)[1]

    starts = range(0, len(unit), BATCH)
    found = [nearest(unit[s : s + BATCH], np.arange(s, min(s + BATCH, len(unit)))) for s in starts]
    return np.concatenate(found).astype(np.int32)


def _of_all(function: Callable[[PyTree, Array], Array], variables: PyTree, images: np.ndarray) -> np.ndarray:
    """What `function` gives for all images, by the BatchNorm of clean ones, float [N, ...]."""
    clean, starts = encoding.clean_route(variables), range(0, len(images), BATCH)
    return np.concatenate([function(clean, jnp.asarray(pixels(images[s : s + BATCH]))) for s in starts])
