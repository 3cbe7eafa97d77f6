import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from clead_jax.data import AugmentConfig, augment, to_float
from clead_jax.data.augment import _blurred, _rotated, _turned

OFF = AugmentConfig(crop_padding=0, flip=False)
ALL = AugmentConfig(2, "black", True, 0.5, 0.3, 0.1, 0.3, crop_shift=3, rotation=20, blur=0.5, erasing=0.5)
run = jax.jit(augment, static_argnums=2)


def keys(count, seed=0):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(np.arange(count))


def pictures(count, channels=3, size=8):
    return np.random.RandomState(0).randint(0, 256, (count, size, size, channels), np.uint8)


def augmented(image, count, **fields):
    """`count` draws of one image [H, W, C], in 0..255."""
    images = np.broadcast_to(image, (count, *image.shape))
    return np.asarray(run(keys(count), images, dataclasses.replace(OFF, **fields))) * 255


def test_everything_off_is_the_scaled_image():
    images = pictures(4)
    np.testing.assert_allclose(run(keys(4), images, OFF), images.astype(np.float32) / 255, atol=1e-7)
    np.testing.assert_array_equal(to_float(np.array([0, 255], np.uint8)), [0, 1])


def test_crops_are_the_windows_of_the_black_padded_image_all_equally_often():
    image = np.arange(1, 26, dtype=np.uint8).reshape(5, 5, 1)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    windows = [padded[i : i + 5, j : j + 5] for i in range(3) for j in range(3)]
    draws = np.round(augmented(image, 900, crop_padding=1))
    counts = [int((draws == window).all((1, 2, 3)).sum()) for window in windows]
    assert sum(counts) == 900  # nothing else occurs
    assert min(counts) > 60  # 100 expected, 9.4 standard deviation
    assert max(counts) < 140


def test_flips_mirror_left_and_right_half_of_the_time():
    image = pictures(1)[0]
    draws = np.round(augmented(image, 400, flip=True))
    flipped = (draws == image[:, ::-1]).all((1, 2, 3))
    assert ((draws == image).all((1, 2, 3)) ^ flipped).all()
    assert 150 < flipped.sum() < 250


def test_grayscale_has_the_luma_in_every_channel_as_often_as_asked():
    draws = augmented(np.array([[[200, 100, 50]]], np.uint8), 400, grayscale=0.2)
    gray = np.isclose(draws, 0.299 * 200 + 0.587 * 100 + 0.114 * 50, atol=0.01).all((1, 2, 3))
    assert np.allclose(draws[~gray], [200, 100, 50], atol=0.01)
    assert 45 < gray.sum() < 115


def test_jitter_of_a_flat_grey_image_is_its_brightness_factor():
    factors = augmented(np.full((4, 4, 1), 100, np.uint8), 2000, color_jitter=0.5)[:, 0, 0, 0] / 100
    kept = np.isclose(factors, 1, atol=1e-3)
    assert 0.16 < kept.mean() < 0.25  # a fifth is left alone
    drawn = factors[~kept]
    assert 0.6 - 1e-3 <= drawn.min() < 0.62
    assert 1.38 < drawn.max() <= 1.4 + 1e-3


def test_jitter_changes_contrast_everywhere_and_saturation_where_there_are_colours():
    gray = np.array([[[100], [120]]], np.uint8)
    ratio = np.ptp(augmented(gray, 500, color_jitter=0.5), axis=2) / augmented(gray, 500, color_jitter=0.5).mean(2)
    assert ratio.std() > 0.02  # brightness alone keeps this ratio
    colour = augmented(np.array([[[120, 100, 100]]], np.uint8), 500, color_jitter=0.5)[:, 0, 0]
    assert (colour[:, 0] / colour[:, 1]).std() > 0.02  # brightness and contrast alone move one pixel's channels alike
    pairs = augmented(np.repeat(gray, 3, axis=-1), 50, color_jitter=0.5)
    np.testing.assert_allclose(pairs[..., 0], pairs[..., 2], atol=1e-3)  # grey stays grey


def test_a_resized_crop_shows_a_window_at_least_so_large_anywhere():
    """On a ramp in both directions: the window is read off the values at its edges."""
    size = 16
    ramp = np.stack(np.meshgrid(np.arange(size) * 10, np.arange(size) * 10), -1)[..., [0, 1, 0]].astype(np.uint8)
    draws = augmented(ramp, 400, resized_crop=0.25)
    width = (draws[:, 8, 12, 0] - draws[:, 8, 4, 0]) / 80  # 1 if the whole image is seen
    height = (draws[:, 12, 8, 1] - draws[:, 4, 8, 1]) / 80
    share = width * height
    assert 0.2 < share.min() < 0.3 and 0.9 < share.max() < 1.05 and 0.5 < share.mean() < 0.7
    assert 0.74 < (width / height).min() < 0.85 and 1.17 < (width / height).max() < 1.35
    small = (width < 0.7) & (height < 0.7)
    left = draws[small, 8, 8, 0] / 10 - width[small] * size / 2
    assert left.min() < 2 and left.max() > 0.3 * size - 2


def test_hues_turn_and_lightest_and_darkest_channel_stay():
    colour = np.array([[[200, 100, 40]]], np.uint8)
    draws = augmented(colour, 500, hue=0.5)[:, 0, 0]
    np.testing.assert_allclose(draws.max(-1), 200, atol=0.01)
    np.testing.assert_allclose(draws.min(-1), 40, atol=0.01)
    assert {int(channel) for channel in draws.argmax(-1)} == {0, 1, 2}
    turned = lambda turn: np.asarray(_turned(colour / 255.0, turn))[0, 0] * 255
    np.testing.assert_allclose(turned(1 / 3), [40, 200, 100], atol=0.01)  # a third of the circle: red becomes green
    np.testing.assert_allclose(turned(-1 / 3), [100, 40, 200], atol=0.01)
    np.testing.assert_allclose(augmented(np.full((1, 1, 3), 90, np.uint8), 9, hue=0.5), 90, atol=0.01)


def test_crop_shift_pastes_a_window_anywhere_on_black():
    image, most = np.arange(1, 17, dtype=np.uint8).reshape(4, 4), 2
    allowed: dict[bytes, int] = {}
    for rows, columns in ((r, c) for r in range(most + 1) for c in range(most + 1) if r + c <= most):
        for top, left, i, j in np.ndindex(rows + 1, columns + 1, rows + 1, columns + 1):
            pasted = np.zeros_like(image)
            pasted[i : i + 4 - rows, j : j + 4 - columns] = image[top : top + 4 - rows, left : left + 4 - columns]
            allowed[pasted.tobytes()] = rows + columns
    draws = np.round(augmented(image[..., None], 600, crop_shift=most)[..., 0]).astype(np.uint8)
    cut = [allowed[draw.tobytes()] for draw in draws]  # nothing else occurs
    assert all(150 < cut.count(number) < 250 for number in range(most + 1))
    assert len({draw.tobytes() for draw in draws}) > 40
    assert (augmented(image[..., None], 50, crop_shift=99) > 0).any((1, 2, 3)).all()  # one pixel is left at least


def test_rotations_are_scipys_and_as_wide_as_asked():
    image = pictures(1)[0] / np.float32(255)
    np.testing.assert_allclose(_rotated(image, np.pi / 2), np.rot90(image), atol=1e-5)
    expected = scipy.ndimage.rotate(image, 25, reshape=False, order=1, mode="grid-constant")
    np.testing.assert_allclose(_rotated(image, np.deg2rad(25)), expected, atol=1e-5)
    ramp = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None] * 20, (9, 9, 1))
    draws = augmented(ramp, 400, rotation=30)[..., 0]
    across, down = draws[:, 4, 5] - draws[:, 4, 3], draws[:, 5, 4] - draws[:, 3, 4]
    angles = np.rad2deg(np.arctan2(across, down))
    assert -30.1 < angles.min() < -28 and 28 < angles.max() < 30.1 and abs(angles.mean()) < 3


@pytest.mark.parametrize(("size", "radius"), [(8, 1), (40, 2)])
def test_blur_is_scipys_in_a_tenth_of_the_image_as_often_as_asked(size, radius):
    image = pictures(1, size=size)[0] / np.float32(255)
    expected = scipy.ndimage.gaussian_filter(image, 1.3, mode="mirror", radius=radius, axes=(0, 1))
    np.testing.assert_allclose(_blurred(image, 1.3), expected, atol=1e-5)
    if size == 8:
        kept = np.isclose(augmented(pictures(1)[0], 400, blur=0.5), pictures(1)[0], atol=1e-3).all((1, 2, 3))
        assert 160 < kept.sum() < 250  # the least blurred look kept too


def test_erasing_blackens_one_rectangle_as_often_as_asked():
    draws = augmented(np.full((20, 20, 1), 200, np.uint8), 400, erasing=0.5)[..., 0]
    black = draws == 0
    erased = black.any((1, 2))
    assert 150 < erased.sum() < 250 and np.allclose(draws[~black], 200, atol=0.01)
    heights, widths = black.any(2).sum(1), black.any(1).sum(1)
    np.testing.assert_array_equal(black.sum((1, 2)), heights * widths)
    share = black[erased].mean((1, 2))
    assert 0.01 < share.min() < 0.05 and 0.28 < share.max() < 0.36
    assert heights[erased].min() < 4 and (heights[erased] > 2 * widths[erased]).any()
    assert len({tuple(np.argwhere(draw)[0]) for draw in black[erased]}) > 60


@pytest.mark.parametrize("channels", [1, 3])
def test_shape_type_and_range(channels):
    images = pictures(16, channels)
    out = run(keys(16), images, dataclasses.replace(ALL, color_jitter=1.0))
    assert (out.shape, out.dtype) == (images.shape, np.float32)
    assert 0 <= out.min() < out.max() <= 1
    white = np.full_like(images, 255)
    assert run(keys(16), white, dataclasses.replace(ALL, color_jitter=1.0)).max() <= 1
    assert (np.abs(np.asarray(out) - images / 255).reshape(16, -1).max(1) > 0.01).sum() > 12


def test_an_example_is_augmented_by_its_own_key_alone():
    images, k = pictures(6), keys(6)
    together = np.asarray(run(k, images, ALL))
    order = np.array([4, 0, 5])
    np.testing.assert_allclose(run(k[order], images[order], ALL), together[order], atol=1e-6)
    assert np.abs(run(keys(6, seed=1), images, ALL) - together).max() > 0.1


def test_strength_takes_crops_colours_and_grey_away():
    """At 0 there are no colours and no grey, and windows of the whole area; at 1 nothing has changed."""
    images = np.broadcast_to(pictures(1), (400, 8, 8, 3))
    colours = dataclasses.replace(OFF, color_jitter=0.5, hue=0.1, grayscale=0.5, blur=1, erasing=1, rotation=90)
    crops = dataclasses.replace(OFF, resized_crop=0.3)
    at = lambda cfg, strength: np.asarray(run(keys(400), images, cfg, jnp.float32(strength)))
    np.testing.assert_allclose(at(colours, 0), to_float(images), atol=1e-6)
    np.testing.assert_allclose(
        at(crops, 0), run(keys(400), images, dataclasses.replace(OFF, resized_crop=1.0)), atol=1e-5
    )
    for cfg in (colours, crops):
        np.testing.assert_allclose(at(cfg, 1), run(keys(400), images, cfg), atol=1e-5)
    grey = dataclasses.replace(OFF, grayscale=0.5)
    is_grey = np.ptp(at(grey, 0.5), axis=-1).max((1, 2)) < 1e-6
    assert 0.18 < is_grey.mean() < 0.32


@pytest.mark.parametrize(
    "wrong",
    [
        *({"crop_padding": -1}, {"color_jitter": -0.1}, {"grayscale": 1.5}, {"hue": 0.6}, {"resized_crop": 2}),
        *({"crop_shift": -1}, {"crop_shift": 1.5}, {"rotation": 200}, {"blur": 2}, {"erasing": -0.1}),
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AugmentConfig(**wrong)
