"""EfficientNet-B0 (Tan and Le, arXiv 1905.11946, Table 1): inverted bottlenecks with squeeze and excitation.

    stem -> seven stages of MBConv blocks -> 1x1 convolution to 1280 channels -> mean over pixels [B, 1280]

Without dropout and stochastic depth, because backbones are deterministic. BatchNorm is as in the other backbones.
"""

import math

import jax.numpy as jnp
from flax import linen as nn

from clead_jax.core.registry import BACKBONES
from clead_jax.core.types import Array
from clead_jax.models.layers import FULL, remat
from clead_jax.models.resnet import STEMS, ConvNorm

STAGES = (  # expansion, channels, blocks, first stride, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class MBConv(nn.Module):
    """Expansion, depthwise filter, squeeze and excitation, projection; a shortcut if the shapes agree."""

    expansion: int
    filters: int
    stride: int
    kernel: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x [B, H, W, C] -> [B, H / stride, W / stride, filters]."""
        channels = x.shape[-1]
        wide, y = channels * self.expansion, x
        if self.expansion > 1:
            y = nn.silu(ConvNorm(wide, 1, dtype=self.dtype, name="expand")(y, train))
        y = nn.silu(ConvNorm(wide, self.kernel, self.stride, self.dtype, groups=wide, name="depthwise")(y, train))
        squeezed = y.mean(axis=(1, 2), keepdims=True)
        squeezed = nn.silu(nn.Dense(max(1, channels // 4), dtype=self.dtype, name="squeeze")(squeezed))
        y = y * nn.sigmoid(nn.Dense(wide, dtype=self.dtype, name="excite")(squeezed))
        y = ConvNorm(self.filters, 1, dtype=self.dtype, name="project")(y, train)
        return x + y if x.shape == y.shape else y


@BACKBONES.register("efficientnet_b0")
class EfficientNetB0(nn.Module):
    """`width` 64 is the published network; the "cifar" stem keeps the resolution, "imagenet" halves it."""

    width: int = FULL
    stem: str = "cifar"
    dtype: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Normalised images [B, H, W, C] -> features [B, F] in float32, F = 1280 at full width."""
        if self.stem not in STEMS:
            raise ValueError(f"unknown stem {self.stem!r}: known: {', '.join(STEMS)}")
        channels = lambda full: 8 * math.ceil(full * self.width / FULL / 8)  # multiples of 8, for the hardware
        x = nn.silu(ConvNorm(channels(32), 3, STEMS[self.stem][1], self.dtype, name="stem")(x, train))
        for number, (expansion, full, blocks, first_stride, kernel) in enumerate(STAGES, start=1):
            for i in range(blocks):
                stride, name = first_stride if i == 0 else 1, f"stage{number}_block{i + 1}"
                block = remat(MBConv, self.remat)(expansion, channels(full), stride, kernel, self.dtype, name=name)
                x = block(x, train)
        x = nn.silu(ConvNorm(channels(1280), 1, dtype=self.dtype, name="top")(x, train))
        return x.astype(jnp.float32).mean(axis=(1, 2))
