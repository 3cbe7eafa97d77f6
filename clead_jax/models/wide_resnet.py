"""Wide residual networks (Zagoruyko and Komodakis, arXiv 1605.07146): fewer layers, more channels.

    convolution -> three stages of pre-activation blocks (16 k, 32 k, 64 k channels) -> BatchNorm, ReLU -> mean [B, F]

A network of depth d has (d - 4) / 6 blocks a stage. Robust training is commonly reported on WRN-28-10 and WRN-34-10.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn

from clead_jax.core.registry import BACKBONES
from clead_jax.core.types import Array
from clead_jax.models.layers import FULL, batch_norm, convolution, remat
from clead_jax.models.resnet import through_stem


class NormConv(nn.Module):
    """BatchNorm, ReLU, then a convolution without bias: the pre-activation order (arXiv 1603.05027)."""

    filters: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        """x [B, H, W, C] -> (convolved [B, H / stride, W / stride, filters], x after BatchNorm and ReLU)."""
        active = nn.relu(batch_norm(train, self.dtype)(x))
        return convolution(self.filters, 3, self.stride, dtype=self.dtype)(active), active


class WideBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes, the shortcut is a 1x1 convolution of the activated input."""

    filters: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x [B, H, W, C] -> [B, H / stride, W / stride, filters]."""
        y, active = NormConv(self.filters, self.stride, self.dtype)(x, train)
        y, _ = NormConv(self.filters, 1, self.dtype)(y, train)
        if x.shape != y.shape:
            x = convolution(self.filters, 1, self.stride, dtype=self.dtype, name="shortcut")(active)
        return x + y


class WideResNet(nn.Module):
    """WRN-`depth`-`widening`; see the module. The stem is the ResNets': "imagenet" quarters the resolution."""

    depth: int
    widening: int
    width: int = FULL
    stem: str = "cifar"
    dtype: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Normalised images [B, H, W, C] -> features [B, 64 k] in float32, at full width."""
        channels = lambda full: max(1, round(full * self.width / FULL))
        convolve = lambda x, kernel, stride: convolution(channels(16), kernel, stride, dtype=self.dtype, name="stem")(x)
        x = through_stem(self.stem, x, convolve)
        for stage in range(3):
            for i in range((self.depth - 4) // 6):
                stride = 2 if stage > 0 and i == 0 else 1
                filters = channels(16 * 2**stage * self.widening)
                name = f"stage{stage + 1}_block{i + 1}"
                x = remat(WideBlock, self.remat)(filters, stride, self.dtype, name=name)(x, train)
        x = nn.relu(batch_norm(train, self.dtype, name="norm")(x))
        return x.astype(jnp.float32).mean(axis=(1, 2))


BACKBONES.register("wide_resnet28_10")(partial(WideResNet, 28, 10))
BACKBONES.register("wide_resnet34_10")(partial(WideResNet, 34, 10))
