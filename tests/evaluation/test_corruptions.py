"""Common corruptions: which, of what images, the same in any batch, and what is counted."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.audit import audit
from clead_jax.core.types import Examples
from clead_jax.evaluation import corruptions

IMAGES = np.random.default_rng(0).integers(60, 190, (6, 32, 32, 3), np.uint8)
IMAGES[::2] //= 2  # half of them darker


@pytest.fixture
def package():
    return pytest.importorskip("imagecorruptions", reason='needs pip install -e ".[corruptions]"')


def some(rows, images=IMAGES):
    rows = np.array(rows)
    return Examples(images[rows], np.zeros(len(rows), np.int32), rows)


def test_they_are_those_of_the_benchmark(package):
    assert list(corruptions.NAMES) == package.get_corruption_names("common") and len(corruptions.NAMES) == 15


@pytest.mark.parametrize("name", corruptions.NAMES)
def test_an_image_is_the_same_in_any_batch(package, name):
    before = np.random.get_state()[1].copy()
    whole, part = (corruptions.corrupted(some(rows), name, 3, seed=0) for rows in ([0, 1, 2, 3], [3, 1]))
    np.testing.assert_array_equal(whole[[3, 1]], part)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert whole.shape == (4, 32, 32, 3) and whole.dtype == np.uint8 and (whole != IMAGES[:4]).any((1, 2, 3)).all()


def test_noise_grows_and_has_its_size(package):
    """Gaussian noise of ImageNet-C: 0.08 to 0.38 of the pixel range, other for every seed and image."""
    grey = np.full((2, 32, 32, 1), 128, np.uint8)
    spread = [corruptions.corrupted(some([0, 1], grey), "gaussian_noise", s, 0).std() / 255 for s in (1, 2, 3)]
    np.testing.assert_allclose(spread, (0.08, 0.12, 0.18), rtol=0.05)
    first, other = (corruptions.corrupted(some([0, 1], grey), "gaussian_noise", 1, seed) for seed in (0, 1))
    assert first.shape == grey.shape and (first != other).any() and (first[0] != first[1]).any()


def test_accuracy_of_a_model_that_tells_light_from_dark(package):
    def forward(x):
        brightness = x.mean((1, 2, 3))
        return jnp.stack([0 * brightness, brightness - 0.37], -1)

    labels = (np.arange(6) % 2).astype(np.int32)
    found = audit(forward, IMAGES, labels, attacks="fgsm", checks=False, corruptions=True, batch_size=16)
    of = found.corruptions
    assert list(of["accuracy"]) == list(corruptions.NAMES) and of["num_examples"] == 6
    assert of["accuracy"]["pixelate"] == [1.0] * 5  # moves no brightness
    assert of["accuracy"]["brightness"][-1] == 0.5  # all look light
    means = [np.mean(each) for each in of["accuracy"].values()]
    assert of["mean"] == pytest.approx(np.mean(means)) and of["worst"] == min(means) < of["mean"]
    assert "corruptions" in str(found)


def test_small_images_are_refused_in_one_line(package):
    with pytest.raises(ValueError, match=r"images 8x8x1: they need 32 pixels a side") as error:
        audit(lambda x: x.reshape(len(x), -1)[:, :2], np.zeros((2, 8, 8, 1)), np.zeros(2, int), corruptions=True)
    assert "\n" not in str(error.value)


def test_without_the_package_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[corruptions\]"') as error:
        corruptions.check((32, 32, 3))
    assert "\n" not in str(error.value)
