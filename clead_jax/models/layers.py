"""Layers of every backbone: convolutions with torch's padding, and BatchNorm with torch's settings."""

from functools import partial

from flax import linen as nn

FULL = 64  # `width` of a published network; another value scales all of its layers


def convolution(
    filters: int, kernel: int, stride: int = 1, groups: int = 1, dtype: str = "float32", name: str | None = None
) -> nn.Conv:
    """A convolution without bias. Pads both sides equally, as torch does; 'SAME' does not at stride 2."""
    he = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # arXiv 1502.01852
    plain = partial(nn.Conv, use_bias=False, kernel_init=he, feature_group_count=groups)
    return plain(filters, (kernel, kernel), strides=stride, padding=kernel // 2, dtype=dtype, name=name)


def batch_norm(train: bool, dtype: str, name: str | None = None) -> nn.BatchNorm:
    """BatchNorm: the batch's statistics if `train`, else the running ones."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


def remat(block: type[nn.Module], wanted: bool) -> type[nn.Module]:
    """If `wanted`, a block, called as (x, train), whose activations are computed again for the gradient instead of kept
    (Chen et al., arXiv 1604.06174). Parameters and their names stay.
    """
    return nn.remat(block, static_argnums=(2,)) if wanted else block
