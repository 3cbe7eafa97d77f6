"""Mean and deviation of pixels, which the network normalises by."""

import numpy as np

from clead_jax.data.splits import pixel_statistics


def test_pixel_statistics_are_exact_however_many_pixels_there_are():
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3)).astype(np.uint8)
    images[..., 1] //= 2
    mean, std = pixel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), atol=6e-5)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), atol=6e-5)
    many = np.full((1, 4200, 4200, 1), 255, np.uint8)  # over 2^24 pixels: a float32 sum stops there
    assert pixel_statistics(many) == ([1.0], [0.001])
