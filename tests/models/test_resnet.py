"""The ResNets against the literature's parameter counts and against numpy loops over the definition."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.core.registry import BACKBONES
from clead_jax.models.resnet import BasicBlock, Bottleneck, ResNet


@pytest.mark.parametrize(
    "name, stem, classes, count",
    [
        ("resnet18", "cifar", 10, 11_173_962),
        ("resnet34", "cifar", 10, 21_282_122),
        ("resnet50", "cifar", 10, 23_520_842),
        ("resnet18", "imagenet", 1000, 11_689_512),  # the last three as in torchvision
        ("resnet34", "imagenet", 1000, 21_797_672),
        ("resnet50", "imagenet", 1000, 25_557_032),
    ],
)
def test_parameter_count_with_a_linear_head(name, stem, classes, count):
    init = functools.partial(BACKBONES[name].value(width=64, stem=stem, dtype="float32").init, train=False)
    params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    features = 2048 if name == "resnet50" else 512
    assert sum(a.size for a in jax.tree.leaves(params)) + (features + 1) * classes == count


def convolve(x, kernel, stride):
    """x [B, H, W, C] and kernel [k, k, C, F], padded by k // 2 on both sides: what torch computes."""
    k = len(kernel)
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("bhwcij,ijcf->bhwf", windows, kernel)


def conv_norm(x, params, stats, stride):
    norm, stats = params["BatchNorm_0"], stats["BatchNorm_0"]
    x = convolve(x, params["Conv_0"]["kernel"], stride)
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]


def block(x, params, stats, stride):
    """Either block: its convolutions are in order, and the first 3x3 strides."""
    y, names = x, sorted(name for name in params if name != "shortcut")
    for name in names:
        last, strides = name == names[-1], name == ("ConvNorm_1" if len(names) == 3 else "ConvNorm_0")
        y = conv_norm(y, params[name], stats[name], stride if strides else 1)
        y = y if last else np.maximum(y, 0)
    shortcut = conv_norm(x, params["shortcut"], stats["shortcut"], stride) if "shortcut" in params else x
    return np.maximum(shortcut + y, 0)


def reference(x, params, stats, stem):
    x = np.maximum(conv_norm(x, params["stem"], stats["stem"], 2 if stem == "imagenet" else 1), 0)
    if stem == "imagenet":
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros do as -inf does, after a ReLU
        x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(-2, -1))
    for name in sorted(name for name in params if name != "stem"):
        stage, i = map(int, re.findall(r"\d+", name))
        x = block(x, params[name], stats[name], 2 if stage > 1 and i == 1 else 1)
    return x.mean(axis=(1, 2))


@pytest.mark.parametrize("kind, stages", [(BasicBlock, (2, 1)), (Bottleneck, (1, 2))])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_equals_the_definition_with_torch_padding(kind, stages, stem):
    model = ResNet(kind, stages, width=4, stem=stem)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(1), images)
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda a: rng.uniform(0.1, 0.5, a.shape).astype(np.float32), shapes)  # statistics included
    expected = reference(np.asarray(images), variables["params"], variables["batch_stats"], stem)
    features = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    np.testing.assert_allclose(features, expected, rtol=1e-4)


def test_running_statistics_move_by_a_tenth():
    model, images = ResNet(BasicBlock, (1,), width=4), jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(1), images)
    _, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    stem = convolve(np.asarray(images), np.asarray(variables["params"]["stem"]["Conv_0"]["kernel"]), 1)
    statistics = updated["batch_stats"]["stem"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * stem.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * stem.var(axis=(0, 1, 2)), rtol=1e-4)


def test_unknown_stem():
    with pytest.raises(ValueError, match="unknown stem 'svhn': known: cifar, imagenet"):
        ResNet(BasicBlock, (1,), stem="svhn").init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
