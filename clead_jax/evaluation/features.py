"""How well features fall into classes: distances within and between classes, and the silhouette."""

import numpy as np
from sklearn.metrics import pairwise_distances, silhouette_score


def clusters(features: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """Cluster measures of features [n, F], scaled to length 1 (zeros stay zeros), under their true classes [n].

    Returns `intra` and `inter`, the mean distance of two examples of one class and of two classes, in [0, 2], and
    `silhouette` in [-1, 1] (Rousseeuw, 1987): the mean of (b - a) / max(a, b), with a an example's mean distance to its
    own class and b to the nearest other. None where no pair, or no two classes, are there to be measured.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    distances = pairwise_distances(features / np.maximum(lengths, np.finfo(np.float32).tiny))
    np.fill_diagonal(distances, 0.0)  # rounding leaves traces, which silhouette_score refuses
    same = labels[:, None] == labels
    pairs = {"intra": same & ~np.eye(len(labels), dtype=bool), "inter": ~same}
    found = {name: float(distances[where].mean()) if where.any() else None for name, where in pairs.items()}
    measurable = 1 < len(np.unique(labels)) < len(labels)
    score = float(silhouette_score(distances, labels, metric="precomputed")) if measurable else None
    return found | {"silhouette": score}
