"""Cluster measures against loops over pairs, and against what they are for two points and many."""

import numpy as np
import pytest

from clead_jax.evaluation.features import clusters


def by_loops(features, labels):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = lambda i, j: float(np.sqrt(((unit[i] - unit[j]) ** 2).sum()))
    everyone = range(len(labels))
    pairs = [(i, j) for i in everyone for j in everyone if i < j]
    intra = np.mean([distance(i, j) for i, j in pairs if labels[i] == labels[j]])
    inter = np.mean([distance(i, j) for i, j in pairs if labels[i] != labels[j]])
    scores = []
    for i in everyone:
        to = {c: [distance(i, j) for j in everyone if j != i and labels[j] == c] for c in set(labels)}
        own = to.pop(labels[i])
        b = min(np.mean(others) for others in to.values())
        scores.append((b - np.mean(own)) / max(b, np.mean(own)) if own else 0.0)
    return {"intra": intra, "inter": inter, "silhouette": np.mean(scores)}


def test_equals_loops_over_pairs():
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3])  # one class of one example: its score is 0, by definition
    features = rng.standard_normal((9, 4)) + 2 * np.eye(4)[labels]
    found = clusters(features.astype(np.float32), labels)
    assert found == pytest.approx(by_loops(features, labels.tolist()), abs=1e-5)


def test_perfect_clusters_on_opposite_poles():
    features = np.array([[3.0, 0], [1, 0], [-2, 0], [-1, 0]])
    assert clusters(features, np.array([0, 0, 1, 1])) == {"intra": 0.0, "inter": 2.0, "silhouette": 1.0}


def test_what_cannot_be_measured_is_none_and_zeros_are_finite():
    zeros = np.zeros((3, 2), np.float32)
    assert clusters(zeros, np.array([1, 1, 1])) == {"intra": 0.0, "inter": None, "silhouette": None}
    assert clusters(zeros, np.array([0, 1, 2])) == {"intra": None, "inter": 0.0, "silhouette": None}
    assert clusters(zeros[:1], np.array([0])) == {"intra": None, "inter": None, "silhouette": None}
