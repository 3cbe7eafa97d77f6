"""The net of ../shared/parity, with its weights as an argument."""

import jax


def convolutions(weights, x):
    """Logits [B, K] of x [B, H, W, C]: four 3x3 convolutions, strides 1, 2, 2, 1, mean over pixels, a linear layer."""
    x = (x - 0.5) / 0.25
    for n, stride in enumerate((1, 2, 2, 1)):
        dims = ("NHWC", "HWIO", "NHWC")
        pads = [(1, 1), (1, 1)]
        x = jax.lax.conv_general_dilated(x, weights[f"conv{n}_w"], (stride, stride), pads, dimension_numbers=dims)
        x = jax.nn.relu(x + weights[f"conv{n}_b"])
    return x.mean((1, 2)) @ weights["dense_w"] + weights["dense_b"]
