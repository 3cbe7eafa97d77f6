"""Input filters in front of an undefended net are worth little: attacks that go through them break it."""

import jax.numpy as jnp
import numpy as np
import pytest
from check_contexts import convolutional, digits, trained

import clead_jax
from clead_jax.core.types import Classifier
from clead_jax.models.wrappers import wrap

EPS, COUNT = 0.3, 32
FILTERS = ("bit_depth", "jpeg(quality=50)", "blur", "median", "total_variation(weight=0.2)", "resize_pad")


def undefended():
    return Classifier(convolutional, trained(0.0), 10, (8, 8, 1), name="net")


def attacked(text, way, attacks="pgd(steps=10)"):
    """(clean accuracy, accuracy under attack) of the net behind a filter."""
    name, bracket, rest = text.partition("(")
    model = wrap(f"{name}(attacked={way}{',' * bool(bracket)}{rest or ')'}", undefended())
    _, (images, labels) = digits()
    found = clead_jax.audit(
        model, images[:COUNT], labels[:COUNT], eps=EPS, attacks=attacks, checks=False, batch_size=COUNT
    )
    return tuple(found.accuracy.values())


@pytest.mark.parametrize("text", ["bit_depth", pytest.param("jpeg(quality=50)", marks=pytest.mark.slow)])
def test_what_rounds_is_broken_through_it_and_not_by_its_own_derivative(text):
    clean, naive = attacked(text, "exact")
    assert clean > 0.7 and naive > 0.6
    assert attacked(text, "through")[1] <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("text", FILTERS)
def test_every_filter_is_broken_through_it(text):
    clean, naive = attacked(text, "bare")
    through = attacked(text, "through")[1]
    assert clean > 0.6 and through <= min(naive, 0.1)


@pytest.mark.slow
def test_autoattack_breaks_a_filter_in_bfloat16_too():
    _, (images, labels) = digits()
    settings = {"eps": EPS, "attacks": "autoattack(version=fast)", "checks": False, "batch_size": COUNT}
    model = wrap("bit_depth", undefended())
    found = clead_jax.audit(model, images[:COUNT], labels[:COUNT], precision="bfloat16", **settings)
    assert found.accuracy["autoattack"] <= 0.1


def test_what_attacks_see_is_a_note_of_the_audit():
    _, (images, labels) = digits()
    flat = Classifier(lambda v, x: x.reshape(len(x), -1) @ v, jnp.asarray(np.eye(64, 10), jnp.float32), 10, (8, 8, 1))
    model = wrap("jpeg(attacked=bare)", flat)
    found = clead_jax.audit(model, images[:16], labels[:16], eps=EPS, attacks="fgsm", checks=False, batch_size=16)
    assert "jpeg: images are made on the model without the filter" in str(found)
    with pytest.raises(
        ValueError, match=r"forward cannot be run.*median: a window of 9 pixels is larger than the images"
    ):
        nowhere = Classifier(flat.forward, flat.variables)
        clead_jax.audit(wrap("median(size=9)", nowhere), images[:16], labels[:16], attacks="fgsm")
