"""The union of norms, from Python, on a linear model whose robust images are known."""

import jax.numpy as jnp
import numpy as np
import pytest

import clead_jax

# The boundary to each of three classes has its own kind of normal, of length 1 in L2: all pixels, four, or one.
DENSE, FOUR, ONE = np.full(16, 0.25), np.zeros(16), np.zeros(16)
DENSE[[1, 2, 15]], FOUR[:4], ONE[15] = -0.25, 0.5, 1.0
NORMALS = np.stack([DENSE, FOUR, ONE], axis=1).astype(np.float32)
GAP = np.tile(0.014 + 0.02 * np.arange(8), 3)  # of the logits of label 0 and of the one class that is near
NEAR = np.repeat(np.arange(3), 8)
IMAGES = (0.5 + (0.3 - GAP[:, None]) * NORMALS[:, NEAR].T).reshape(24, 4, 4, 1).astype(np.float32)
LABELS = np.zeros(24, np.int32)
LABELS[7] = 1  # wrong
EPS = {"linf": 0.03, "l2": 0.08, "l1": 0.12}


def forward(x):
    others = (x.reshape(len(x), -1) - 0.5) @ NORMALS - 0.3
    return jnp.concatenate([jnp.zeros((len(x), 1)), others], -1)


def robust(norm):
    """Right, and the boundary further away than eps."""
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    reach = EPS[norm] * np.linalg.norm(NORMALS, ord=dual, axis=0)
    return (reach[NEAR] < GAP) & (LABELS == 0)


def test_an_image_counts_only_if_it_withstands_all():
    norms, eps = list(EPS), list(EPS.values())
    found = clead_jax.union(forward, IMAGES, LABELS, norms, eps, "cw(steps=20)", batch_size=32, checks=False)
    every = {norm: robust(norm) for norm in EPS}
    together = np.logical_and.reduce(list(every.values()))
    assert all(0 < together.sum() < hits.sum() < 23 for hits in every.values())
    assert all((every[norm] & ~every[other]).any() for norm in EPS for other in EPS if norm != other)
    for name, hits in (every | {"union": together}).items():
        np.testing.assert_array_equal(found.correct[name], hits)
    assert found.accuracy["clean"] == 23 / 24 and found.accuracy["union"] == together.mean()
    assert found.interval95["union"][0] < together.mean() < found.interval95["union"][1]
    assert set(found.by_norm) == set(EPS) and found.by_norm["l2"].eps == 0.08 and found.complete
    assert str(found).count("cw(steps=20)") == 3 and str(found).count("union") == 2


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
