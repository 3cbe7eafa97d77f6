"""AutoAttack `fast` leaves what `standard` leaves, at an eighth of the passes of an image that withstands all."""

import pathlib

import attack_nets
import numpy as np
import pytest

from clead_jax import data
from clead_jax.audit import audit

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "digits-net.npz"
EPS = {"linf": 0.15, "l2": 0.6}


def left(images, labels, weights, norm, eps):
    """Which images `fast` leaves correct, and the forward equivalents of one of them."""
    result = audit(
        attack_nets.convolutions,
        images,
        labels,
        norm,
        eps,
        "autoattack(version=fast)",
        variables=weights,
        checks=False,
        batch_size=128,
    )
    correct, passes = result.correct["autoattack"], result.passes.values()
    return correct, sum(of["forward"] + 2 * of["backward"] for of in passes)[correct].max()


@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_on_a_small_net(norm):
    """An adversarially trained net of digits; what standard left is stored beside its weights."""
    with np.load(FIXTURE) as stored:
        weights = {key: stored[key] for key in stored.files if not key.startswith("standard")}
        standard = stored[f"standard_{norm}"]
    test, count = data.load("digits").test, len(standard)
    fast, passes = left(test.images[:count], test.labels[:count], weights, norm, EPS[norm])
    assert 0.2 < standard.mean() < 0.9
    np.testing.assert_array_equal(fast, standard)
    assert passes == 1387 and 8 * passes <= 11740


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("l2", 0.5)])
@pytest.mark.parametrize("net", ["robust", "clean"])
def test_on_the_nets_of_the_reference(shared, net, norm, eps):
    path = shared / "parity" / f"{net}.npz"
    if not path.exists():
        pytest.skip(f"no reference results at {path}")
    with np.load(path) as stored:
        weights = {key.removeprefix("net/"): stored[key] for key in stored.files if key.startswith("net/")}
        images, labels = stored["images"], stored["labels"].astype(int)
        standard = stored[f"autoattack_standard_{norm}/correct"]
    fast, _ = left(images, labels, weights, norm, eps)
    assert (fast == standard).mean() >= 0.985  # two float32 programs, as for standard itself
    assert fast.mean() <= standard.mean() + 0.005
