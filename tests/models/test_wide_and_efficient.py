"""WideResNets and EfficientNet-B0: the literature's parameter counts, and one block of each in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.core.registry import BACKBONES
from clead_jax.models.efficientnet import MBConv
from clead_jax.models.wide_resnet import WideBlock


def shapes(name, stem, width=64):
    make = functools.partial(BACKBONES[name].value, width=width, stem=stem, dtype="float32")
    return jax.eval_shape(functools.partial(make().init_with_output, train=False), jax.random.key(0), jnp.zeros(IMAGE))


IMAGE = (1, 32, 32, 3)


@pytest.mark.parametrize(
    "name, stem, classes, count",
    [
        ("wide_resnet28_10", "cifar", 10, 36_479_194),  # arXiv 1605.07146, Table 4: 36.5M
        ("wide_resnet34_10", "cifar", 10, 46_160_474),  # as in TRADES and its successors
        ("efficientnet_b0", "imagenet", 1000, 5_288_548),  # as in torchvision
        ("efficientnet_b0", "cifar", 0, 4_007_548),  # without a head
    ],
)
def test_parameter_count_with_a_linear_head(name, stem, classes, count):
    features, variables = shapes(name, stem)
    parameters = sum(a.size for a in jax.tree.leaves(variables["params"]))
    assert parameters + (features.shape[-1] + 1) * classes == count


@pytest.mark.parametrize("name", ["wide_resnet28_10", "efficientnet_b0"])
def test_width_scales_every_layer(name):
    full, half = (shapes(name, "cifar", width) for width in (64, 32))
    assert half[0].shape[-1] == full[0].shape[-1] / 2
    parameters = [sum(a.size for a in jax.tree.leaves(variables["params"])) for _, variables in (half, full)]
    assert 0.2 < parameters[0] / parameters[1] < 0.35


@pytest.mark.parametrize("name", ["wide_resnet28_10", "efficientnet_b0"])
def test_unknown_stem(name):
    with pytest.raises(ValueError, match="unknown stem 'svhn': known: cifar, imagenet"):
        shapes(name, "svhn")


# --- one block each, in numpy -----------------------------------------------------------------------------------------


def convolve(x, kernel, stride=1):
    """x [B, H, W, C], kernel [k, k, C, F] (or [k, k, 1, C]: every channel by itself), padded by k // 2."""
    k = len(kernel)
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))[:, ::stride, ::stride]
    if kernel.shape[2] == 1:
        return np.einsum("bhwcij,ijc->bhwc", windows, kernel[:, :, 0])
    return np.einsum("bhwcij,ijcf->bhwf", windows, kernel)


def norm(x, params, stats):
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]


def random_variables(block, x):
    leaves = jax.eval_shape(functools.partial(block.init, train=False), jax.random.key(0), x)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: rng.uniform(0.1, 0.5, a.shape).astype(np.float32), leaves)


X = np.random.default_rng(1).normal(size=(2, 6, 6, 8)).astype(np.float32)


@pytest.mark.parametrize(("filters", "stride"), [(8, 1), (5, 2)])
def test_a_wide_block(filters, stride):
    block = WideBlock(filters, stride, "float32")
    variables = random_variables(block, X)
    p, s = variables["params"], variables["batch_stats"]
    active = np.maximum(norm(X, p["NormConv_0"]["BatchNorm_0"], s["NormConv_0"]["BatchNorm_0"]), 0)
    y = convolve(active, p["NormConv_0"]["Conv_0"]["kernel"], stride)
    y = np.maximum(norm(y, p["NormConv_1"]["BatchNorm_0"], s["NormConv_1"]["BatchNorm_0"]), 0)
    y = convolve(y, p["NormConv_1"]["Conv_0"]["kernel"])
    shortcut = convolve(active, p["shortcut"]["kernel"], stride) if "shortcut" in p else X
    assert ("shortcut" in p) == (stride == 2)
    np.testing.assert_allclose(block.apply(variables, X, train=False), shortcut + y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("expansion", "filters", "stride"), [(6, 8, 1), (6, 5, 2), (1, 5, 1)])
def test_an_inverted_bottleneck(expansion, filters, stride):
    block = MBConv(expansion, filters, stride, 5, "float32")
    variables = random_variables(block, X)
    p, s = variables["params"], variables["batch_stats"]
    silu = lambda x: x / (1 + np.exp(-x))
    layer = lambda x, name, stride=1: norm(
        convolve(x, p[name]["Conv_0"]["kernel"], stride), p[name]["BatchNorm_0"], s[name]["BatchNorm_0"]
    )
    assert ("expand" in p) == (expansion > 1)
    y = silu(layer(X, "expand")) if expansion > 1 else X
    y = silu(layer(y, "depthwise", stride))
    seen = silu(y.mean((1, 2)) @ p["squeeze"]["kernel"] + p["squeeze"]["bias"])
    assert seen.shape == (2, 2)  # a quarter of what comes in, not of what it was expanded to
    y = y / (1 + np.exp(-(seen @ p["excite"]["kernel"] + p["excite"]["bias"])))[:, None, None]
    y = layer(y, "project")
    expected = X + y if filters == 8 else y
    np.testing.assert_allclose(block.apply(variables, X, train=False), expected, rtol=1e-4, atol=1e-4)
