"""Each of jax's primitives that has an ONNX form, run by onnxruntime and by jax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from clead_jax.core.types import Classifier
from clead_jax.interop import ONNX
from clead_jax.interop.formats import Exportable

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

X = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 2, 4)).astype(np.float32)


def convolve(x, kernel, numbers=("NHWC", "HWIO", "NHWC"), **more):
    settings = {"window_strides": (2, 1), "padding": [(1, 0), (2, 1)], "rhs_dilation": (1, 2)} | more
    return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **settings)


def pooled(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 2, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (0, 0), (0, 0)))


OPERATORS = {
    "arithmetic": lambda x: (x + 2) * x - x / 3 + -x,
    "two of one": lambda x: jnp.maximum(x, 0.1) * jnp.minimum(x, 0.5) + jnp.abs(x) ** 1.5,
    "elementwise": lambda x: jnp.exp(x) + jnp.tanh(x) + jax.nn.sigmoid(x) + lax.erf(x) + jnp.sin(x) - jnp.cos(x),
    "rounding": lambda x: jnp.floor(x) + jnp.ceil(x) + jnp.sign(x),
    "roots and logs": lambda x: jnp.log(x * x + 1) + jnp.sqrt(x * x) + lax.rsqrt(jnp.square(x) + 1) + x**3,
    "log1p, expm1": lambda x: jnp.log1p(x * x) + jnp.expm1(x),
    "choices": lambda x: jnp.where((x > 0) & (x <= 1) | ~(x < 1) | (x == 0), x, x >= -1),
    "clip": lambda x: jnp.clip(x, -0.5, 0.5) + lax.clamp(-1.0, x, 1.0),
    "activations": lambda x: jax.nn.relu(x) + jax.nn.silu(x) + jax.nn.gelu(x) + jax.nn.softplus(x),
    "shapes": lambda x: x.reshape(x.shape[0], -1)[:, None, :].transpose(0, 2, 1).squeeze(2),
    "concatenation": lambda x: jnp.concatenate([x, 2 * x], -1),
    "sums": lambda x: x.sum((1, 2)) + x.mean((1, 2)) + x.max((1, 2)) + x.min((1, 2)),
    "softmax": lambda x: jax.nn.log_softmax(x, -1) + jax.nn.softmax(x, 1),
    "broadcast": lambda x: x + lax.broadcast_in_dim(x.mean((1, 2)), (x.shape[0], 6, 6, 2), (0, 3)),
    "argmax": lambda x: x.argmax(-1).astype(jnp.float32),
    "convolution": lambda x: convolve(x, KERNEL),
    "in groups": lambda x: convolve(x, KERNEL[:, :, :1], feature_group_count=2),
    "channels first": lambda x: convolve(x.transpose(0, 3, 1, 2), KERNEL, ("NCHW", "HWIO", "NHCW")),
    "max pooling": pooled,
    "dense": lambda x: x.reshape(x.shape[0], -1) @ np.ones((72, 5), np.float32) / 9,
    "products": lambda x: jnp.concatenate(
        [jnp.einsum("bhwc,bhvc->bhwv", x, x), jnp.einsum("bhwc,wdc->bhdc", x, X[0])], -1
    ),
    "stopped": lambda x: lax.stop_gradient(x) + jax.jit(lambda x: 2 * x)(x),
}


def through_onnx(function, batch_size=None, images=X):
    from clead_jax.interop import onnx_graph

    model = Exportable(function, Classifier(function, None, 2, images.shape[1:]), batch_size)
    return onnx_graph.session(onnx_graph.onnx(model))(images)


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_that_of_jax(name, batch_size):
    expected = np.asarray(OPERATORS[name](X))
    found = through_onnx(OPERATORS[name], batch_size)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda x: jnp.sort(x), r"no ONNX form here: sort; enter one with clead_jax.interop.ONNX\['sort'\]"),
        (lambda x: lax.fori_loop(0, 3, lambda _, y: 2 * y, x), "no ONNX form here: (scan|while)"),
        (lambda x: convolve(x, KERNEL, lhs_dilation=(2, 2)), "transposed convolution"),
        (lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 1, 1), "VALID"), "windows"),
    ],
)
def test_what_has_no_form_is_named(function, told):
    with pytest.raises(ValueError, match=told):
        through_onnx(function, 3)


def test_a_user_enters_a_further_operator(monkeypatch):
    entry = lambda graph, equation, x: graph.node("Pow", x, graph.constant(np.float32(1 / 3)))
    monkeypatch.setitem(ONNX, "cbrt", entry)
    np.testing.assert_allclose(through_onnx(jnp.cbrt, images=np.abs(X)), np.cbrt(np.abs(X)), rtol=1e-5)
