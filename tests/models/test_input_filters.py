"""Every input filter against what is known of it, and what attacks see of a model behind one."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from clead_jax.core.types import Classifier
from clead_jax.models import filters, jpeg
from clead_jax.models.wrappers import wrap

X = np.random.default_rng(0).random((3, 9, 11, 3), np.float32)
ROUNDING = ("bit_depth", "jpeg")


def sums(shape=(8, 8, 1)):
    """A classifier of two weighted sums of the pixels."""
    w = jnp.asarray(np.random.default_rng(1).normal(size=(int(np.prod(shape)), 2)), jnp.float32)
    return Classifier(lambda v, x: x.reshape(len(x), -1) @ v, w, 2, shape, name="sums")


def gradient(model, x, *key):
    forward = model.attack_forward or model.forward
    return jax.jit(jax.grad(lambda x: forward(model.variables, x, *key)[:, 0].sum()))(x)


def test_bit_depth_rounds_to_its_levels():
    x = jnp.asarray([0.0, 0.16, 0.17, 0.5, 0.84, 1.0]).reshape(1, 1, 6, 1)
    rounded = filters.bit_depth(x, filters.BitDepthConfig(bits=2))
    np.testing.assert_allclose(3 * rounded.ravel(), [0, 0, 1, 2, 3, 3], atol=1e-6)
    np.testing.assert_array_equal(filters.bit_depth(x, filters.BitDepthConfig(bits=1)).ravel(), [0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize("size", [1, 3, 5])
def test_median_and_blur_are_those_of_scipy(size):
    middle = ndimage.median_filter(X, (1, size, size, 1), mode="nearest")
    np.testing.assert_array_equal(filters.median(X, filters.WindowConfig(size=size)), middle)
    radius = (0, size // 2, size // 2, 0)
    soft = ndimage.gaussian_filter(X, (0, 1.3, 1.3, 0), radius=radius, mode="nearest")
    np.testing.assert_allclose(filters.blur(X, filters.BlurConfig(size=size, sigma=1.3)), soft, atol=1e-6)


def test_total_variation_has_the_known_minimum():
    """A step of two sides of n pixels comes nearer by weight / n on each; so does its transpose."""
    step = np.repeat(np.array([[0.0, 1.0]], np.float32), 4, axis=1)[:, None, :, None] * np.ones(
        (1, 6, 1, 1), np.float32
    )
    for x in (step, step.swapaxes(1, 2)):
        z = filters.total_variation(x, filters.TotalVariationConfig(weight=0.2, steps=2000))
        np.testing.assert_allclose(z, np.where(x, 0.95, 0.05), atol=1e-4)


def test_total_variation_lowers_its_objective():
    cfg = filters.TotalVariationConfig(weight=0.1)
    variation = lambda z: np.sqrt(
        np.diff(z, axis=1, append=z[:, -1:]) ** 2 + np.diff(z, axis=2, append=z[:, :, -1:]) ** 2
    ).sum()
    objective = lambda z: 0.5 * ((z - X) ** 2).sum() + cfg.weight * variation(np.asarray(z))
    found = filters.total_variation(X, cfg)
    rivals = [X, ndimage.gaussian_filter(X, (0, 1, 1, 0)), np.broadcast_to(X.mean((1, 2), keepdims=True), X.shape)]
    assert objective(found) < min(map(objective, rivals))
    nearby = [found + 0.02 * np.random.default_rng(n).normal(size=X.shape).astype(np.float32) for n in range(3)]
    assert objective(found) < min(map(objective, nearby))


@pytest.mark.parametrize("quality", [10, 75, 95])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_that_of_libjpeg(mode, quality):
    """But for coefficients halfway between two steps, which round otherwise. 20x27 pixels are no whole blocks."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).random((20, 27, 3)), (2, 2, 0))
    image = Image.fromarray(np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth))).convert(mode)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=quality, **({"subsampling": 0} if mode == "RGB" else {}))
    expected, x = (np.asarray(im, np.float32).reshape(1, 20, 27, -1) for im in (Image.open(written), image))
    found = 255 * np.asarray(jpeg.jpeg(jnp.asarray(x / 255), jpeg.JPEGConfig(quality=quality)))
    lost = np.abs(expected - x).mean()
    assert np.abs(found - expected).mean() < 0.25 * lost + 0.3 and np.abs(found - x).mean() > 0.7 * lost
    np.testing.assert_allclose(found, np.round(found), atol=1e-3)


def test_resize_pad_shrinks_and_places_every_image_by_its_own_key():
    cfg, x = filters.ResizePadConfig(least=0.5), jnp.ones((64, 20, 20, 1))
    place = jax.jit(lambda x, keys: filters.resize_pad(x, cfg, keys))
    found = np.asarray(place(x, jax.random.split(jax.random.key(0), 64)))[..., 0]
    height, width = ((found.max(axis) > 0).sum(1) for axis in (2, 1))
    assert found.min() == 0 and abs(height - width).max() <= 1  # black around; the aspect ratio stays
    assert 9 <= height.min() < 12 and 18 < height.max() <= 20 and len({*map(bytes, found)}) > 40
    first = np.argmax(found.max(2) > 0, axis=1)
    assert first.min() == 0 and first.max() > 5  # anywhere
    twice = place(x[:2], jnp.repeat(jax.random.key(0), 2))
    np.testing.assert_array_equal(twice[0], twice[1])


@pytest.mark.parametrize("name", [*ROUNDING, "blur", "median", "total_variation"])
def test_what_attacks_see_of_a_filter(name):
    inner, x = sums(), jnp.asarray(X[:, :8, :8, :1])
    models = {attacked: wrap(f"{name}(attacked={attacked})", inner) for attacked in filters.ATTACKED}
    behind = models["through"].forward(inner.variables, x)
    for attacked, model in models.items():
        np.testing.assert_array_equal(model.forward(model.variables, x), behind)
        seen = model.attack_forward(model.variables, x)
        np.testing.assert_allclose(seen, inner(x) if attacked == "bare" else behind, rtol=1e-5, atol=1e-5)
    assert not np.allclose(behind, inner(x), atol=1e-3)
    plain = gradient(inner, x)
    np.testing.assert_allclose(gradient(models["bare"], x), plain)
    own, through = gradient(models["exact"], x), gradient(models["through"], x)
    if name in ROUNDING:
        assert not own.any()
        np.testing.assert_allclose(through, plain, rtol=1e-5)  # the derivative of the identity
    else:
        np.testing.assert_allclose(through, own)
        step = 1e-4 * jnp.asarray(np.random.default_rng(2).normal(size=x.shape), jnp.float32)
        moved = (models["exact"](x + step) - models["exact"](x - step))[:, 0].sum() / 2
        np.testing.assert_allclose((own * step).sum(), moved, rtol=0.05)
        assert not np.allclose(own, plain, atol=1e-3)


def test_attacks_see_the_mean_of_many_draws():
    inner, key, x = sums(), jax.random.key(3), jnp.asarray(X[:2, :8, :8, :1])
    many, one = wrap("resize_pad(draws=500)", inner), wrap("resize_pad(attacked=exact)", inner)
    draw = lambda key: jax.nn.softmax(one.attack_forward(one.variables, x, key))
    drawn = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(4), 500))
    seen = np.exp(jax.jit(many.attack_forward)(many.variables, x, key))
    assert many.randomized and np.std(drawn, axis=0).max() > 0.05
    np.testing.assert_allclose(seen, np.mean(drawn, 0), atol=0.06)


def test_filters_go_around_randomised_models_and_around_each_other():
    inner, key, x = sums(), jax.random.key(0), jnp.asarray(X[:, :8, :8, :1])
    both = wrap("resize_pad", wrap("bit_depth(bits=1)", wrap("noise(std=0.5)", inner)))
    assert both.randomized and both.name == "resize_pad(bit_depth(noise(sums)))"
    assert not np.allclose(both(x, key), both(x, jax.random.key(1)))
    outer = wrap("bit_depth(bits=1)", wrap("noise(std=0.5)", inner))
    assert not np.allclose(outer(x, key), outer(x, jax.random.key(1)))
    half = wrap("bfloat16", wrap("jpeg", inner))
    assert np.isfinite(gradient(half, x)).all() and gradient(half, x).any()


@pytest.mark.parametrize(
    ("text", "shape", "said"),
    [
        ("bit_depth(bits=0)", (8, 8, 1), r"bit_depth\(bits=0\): bits must be at least 1, got 0"),
        ("bit_depth(bits=9)", (8, 8, 1), r"bits must lie in \[1, 8\], got 9"),
        ("median(size=4)", (8, 8, 1), "size must be odd, got 4"),
        ("blur(sigma=0)", (8, 8, 1), r"sigma must lie in \(0, inf\), got 0"),
        ("median(size=9)", (8, 20, 1), "median: a window of 9 pixels is larger than the images, 8x20"),
        ("blur(size=9)", (8, 20, 1), "blur: a window of 9 pixels is larger than the images, 8x20"),
        ("jpeg(quality=0)", (8, 8, 1), "quality must be at least 1, got 0"),
        ("jpeg", (8, 8, 4), "jpeg: images have 1 or 3 channels, these 4"),
        ("total_variation(steps=0)", (8, 8, 1), "steps must be at least 1, got 0"),
        ("resize_pad(least=1)", (8, 8, 1), r"least must lie in \(0, 1\), got 1"),
        ("resize_pad(draws=0)", (8, 8, 1), "draws must be at least 1, got 0"),
        ("jpeg(attacked=naive)", (8, 8, 1), "attacked is 'naive'; it can be through, exact, bare"),
        ("jpg", (8, 8, 1), "unknown wrapper 'jpg': did you mean 'jpeg'"),
    ],
)
def test_what_is_no_filter(text, shape, said):
    with pytest.raises(ValueError, match=said) as caught:
        wrap(text, sums(shape))
    assert "\n" not in str(caught.value)
