"""A WRN-10-1 in Haiku, whose parameters have the names of DeepMind's. Written for tests."""

import haiku as hk
import jax
import jax.numpy as jnp
from torch_nets import MEAN, STD


class Block(hk.Module):
    def __init__(self, channels, stride, shortcut, name):
        super().__init__(name)
        norm, conv = lambda n: hk.BatchNorm(True, True, 0.99, name=f"batchnorm_{n}"), hk.Conv2D
        self.norms = [norm(0), norm(1)]
        strides = (stride, 1)
        self.convs = [conv(channels, 3, strides[n], with_bias=False, name=f"conv_{n}") for n in (0, 1)]
        self.shortcut = conv(channels, 1, stride, with_bias=False, name="shortcut") if shortcut else None

    def __call__(self, x):
        y = jax.nn.silu(self.norms[0](x, is_training=False))
        short = self.shortcut(y) if self.shortcut else x
        return short + self.convs[1](jax.nn.silu(self.norms[1](self.convs[0](y), is_training=False)))


class WideResNet(hk.Module):
    def __init__(self):
        super().__init__("wide_res_net")
        self.first = hk.Conv2D(16, 3, with_bias=False, name="init_conv")
        self.norm, self.last = hk.BatchNorm(True, True, 0.99, name="batchnorm"), hk.Linear(10, name="logits")
        shapes = ((16, 1, False), (32, 2, True), (64, 2, True))
        self.blocks = [Block(*shape, name=f"resnet_lay_{stage}_block_0") for stage, shape in enumerate(shapes)]

    def __call__(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(jax.nn.silu(self.norm(x, is_training=False)).mean((1, 2)))


def logits(x):
    """Of images [B, H, W, C] in [0, 1]."""
    return WideResNet()((x - jnp.array(MEAN)) / jnp.array(STD))
