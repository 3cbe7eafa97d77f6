"""The union of norms, from Python, on a linear model whose robust images are known."""

import jax.numpy as jnp
import numpy as np
import pytest

import clead_jax

N = 40
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.3, 0.7, (N, 4, 4, 1)).astype(np.float32)
W = RNG.normal(size=(16, 2)).astype(np.float32)
GAP = (IMAGES.reshape(N, -1) - 0.5) @ (W[:, 1] - W[:, 0])
LABELS = np.where(np.arange(N) < 3, GAP <= 0, GAP > 0).astype(np.int32)  # the first three are wrong
EPS = {"linf": 0.02, "l2": 0.11, "l1": 0.3}


def forward(x):
    return (x.reshape(len(x), -1) - 0.5) @ jnp.asarray(W)


def robust(norm):
    """Right, and the boundary further away than eps: no pixel is within that of the edge of the box."""
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    return (np.abs(GAP) / np.linalg.norm(W[:, 1] - W[:, 0], ord=dual) > EPS[norm]) & (np.arange(N) >= 3)


def test_an_image_counts_only_if_it_withstands_all():
    norms, eps = list(EPS), list(EPS.values())
    found = clead_jax.union(forward, IMAGES, LABELS, norms, eps, "pgd(steps=20)", batch_size=48, checks=False)
    every = {norm: robust(norm) for norm in EPS}
    together = np.logical_and.reduce(list(every.values()))
    assert all(together.sum() < hits.sum() < N - 3 for hits in every.values()) and together.any()  # each takes some
    for name, hits in (every | {"union": together}).items():
        np.testing.assert_array_equal(found.correct[name], hits)
    assert found.accuracy["clean"] == (N - 3) / N and found.accuracy["union"] == together.mean()
    assert found.interval95["union"][0] < together.mean() < found.interval95["union"][1]
    assert set(found.by_norm) == set(EPS) and found.by_norm["l2"].eps == 0.11 and found.complete
    assert "union" in str(found) and str(found).count("pgd") == 3


@pytest.mark.parametrize(
    ("norm", "eps", "told"),
    [
        ("linf,l2", "0.1", "one radius for each norm"),
        ("linf,Linf", "0.1,0.2", "linf is there twice"),
        ("linf,l2", "0.1,4.1", "[0, 4]"),  # beyond the cube of 16 pixels
        ("linf,l3", "0.1,0.1", "l3"),
        ("", "", "one radius for each norm"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(norm, eps, told):
    def unasked(x):
        raise AssertionError("the model was run")

    with pytest.raises(ValueError) as error:
        clead_jax.union(unasked, IMAGES, LABELS, norm, eps)
    assert told in str(error.value) and "\n" not in str(error.value)
