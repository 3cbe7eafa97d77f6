"""Residual networks (He et al., arXiv 1512.03385), with a stem for small images and explicit, torch-compatible padding.

    stem -> stages of residual blocks, each stage halving the image and doubling the channels -> mean over pixels [B, F]

It may compute in bfloat16: parameters, batch statistics and features stay float32.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import linen as nn

from clead_jax.core.registry import BACKBONES
from clead_jax.core.types import Array
from clead_jax.models.layers import batch_norm, convolution, remat

STEMS = {"cifar": (3, 1), "imagenet": (7, 2)}  # kernel and stride of the first convolution


class ConvNorm(nn.Module):
    """Convolution, then BatchNorm."""

    filters: int
    kernel: int
    stride: int = 1
    dtype: str = "float32"
    groups: int = 1

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x [B, H, W, C] -> [B, H / stride, W / stride, filters]."""
        x = convolution(self.filters, self.kernel, self.stride, self.groups, self.dtype)(x)
        return batch_norm(train, self.dtype)(x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (Figure 5, left): the block of ResNet-18 and 34."""

    width: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x [B, H, W, C] -> [B, H / stride, W / stride, width]."""
        y = nn.relu(ConvNorm(self.width, 3, self.stride, self.dtype)(x, train))
        y = ConvNorm(self.width, 3, 1, self.dtype)(y, train)
        if x.shape != y.shape:
            x = ConvNorm(self.width, 1, self.stride, self.dtype, name="shortcut")(x, train)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions (Figure 5, right): the block of ResNet-50. The 3x3 strides, as in torchvision."""

    width: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x [B, H, W, C] -> [B, H / stride, W / stride, 4 * width]."""
        y = nn.relu(ConvNorm(self.width, 1, 1, self.dtype)(x, train))
        y = nn.relu(ConvNorm(self.width, 3, self.stride, self.dtype)(y, train))
        y = ConvNorm(4 * self.width, 1, 1, self.dtype)(y, train)
        if x.shape != y.shape:
            x = ConvNorm(4 * self.width, 1, self.stride, self.dtype, name="shortcut")(x, train)
        return nn.relu(x + y)


def through_stem(stem: str, x: Array, convolve: Callable[[Array, int, int], Array]) -> Array:
    """x through a stem of `STEMS`, where `convolve` is (x, kernel, stride) -> x. Raises ValueError for any other."""
    if stem not in STEMS:
        raise ValueError(f"unknown stem {stem!r}: known: {', '.join(STEMS)}")
    x = convolve(x, *STEMS[stem])
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))) if stem == "imagenet" else x


class ResNet(nn.Module):
    """A stem, `stages` of residual blocks, and the mean over pixels. Raises ValueError for an unknown stem.

    The "cifar" stem keeps the resolution; "imagenet" quarters it: 7x7 / 2, then a 3x3 / 2 max pool.
    """

    block: type[nn.Module]
    stages: tuple[int, ...]
    width: int = 64
    stem: str = "cifar"
    dtype: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Normalised images [B, H, W, C] -> features [B, F] in float32."""
        convolve = lambda x, kernel, stride: ConvNorm(self.width, kernel, stride, self.dtype, name="stem")(x, train)
        x = through_stem(self.stem, x, lambda *given: nn.relu(convolve(*given)))
        for stage, blocks in enumerate(self.stages):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"stage{stage + 1}_block{i + 1}"
                x = remat(self.block, self.remat)(self.width * 2**stage, stride, self.dtype, name=name)(x, train)
        return x.astype(jnp.float32).mean(axis=(1, 2))


BACKBONES.register("resnet18")(partial(ResNet, BasicBlock, (2, 2, 2, 2)))
BACKBONES.register("resnet34")(partial(ResNet, BasicBlock, (3, 4, 6, 3)))
BACKBONES.register("resnet50")(partial(ResNet, Bottleneck, (3, 4, 6, 3)))
BACKBONES.register("tiny")(partial(ResNet, BasicBlock, (1, 1, 1)))  # for tests and the quickstart
