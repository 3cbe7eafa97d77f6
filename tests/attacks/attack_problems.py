"""Models with known answers: linear ones, where the best attack has a formula, and the nets of ../shared/parity."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.core.types import Array, Forward, Key

SHAPE = (6, 6, 3)


class Problem(NamedTuple):
    forward: Forward
    x: Array
    labels: Array
    keys: Key
    weights: Array


def linear(classes: int = 2, batch: int = 8, seed: int = 0) -> Problem:
    """logits = (x - 1/2) @ weights, in grey images that no attack of small eps drives out of the pixel box."""
    a, b, c = jax.random.split(jax.random.key(seed), 3)
    weights = jax.random.normal(a, (int(np.prod(SHAPE)), classes))
    x = jax.random.uniform(b, (batch, *SHAPE), minval=0.47, maxval=0.53)
    forward = lambda x: (x - 0.5).reshape(len(x), -1) @ weights
    return Problem(forward, x, jnp.argmax(forward(x), -1), jax.random.split(c, batch), weights)


def mlp(batch: int = 8, seed: int = 0) -> Problem:
    """A small nonlinear network of three classes, on images that touch 0 and 1."""
    a, b, c, d = jax.random.split(jax.random.key(seed), 4)
    hidden, out = jax.random.normal(a, (int(np.prod(SHAPE)), 16)) / 4, jax.random.normal(b, (16, 3))
    x = jnp.clip(jax.random.uniform(c, (batch, *SHAPE), minval=-0.1, maxval=1.1), 0.0, 1.0)
    forward = lambda x: jnp.tanh((x - 0.5).reshape(len(x), -1) @ hidden) @ out
    return Problem(forward, x, jnp.argmax(forward(x), -1), jax.random.split(d, batch), hidden)


def reference_net(file: np.lib.npyio.NpzFile) -> Forward:
    """The convolutional net of a parity file, as its README describes it."""

    def forward(x: Array) -> Array:
        x = (x - 0.5) / 0.25
        for i, stride in enumerate((1, 2, 2, 1)):
            kernel, bias = file[f"net/conv{i}_w"], file[f"net/conv{i}_b"]
            x = jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + bias)
        return x.mean((1, 2)) @ file["net/dense_w"] + file["net/dense_b"]

    return forward
