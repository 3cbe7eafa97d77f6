"""What every registered backbone owes the rest: float32 features [B, F], honest modes, gradients down to the pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slowly

import clead_jax.models  # noqa: F401
from clead_jax.core.registry import BACKBONES

IMAGES = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
NAMES = [name for name in BACKBONES if name != "speck"]  # a test plugin
every_backbone = pytest.mark.parametrize("name", NAMES)
DEEP = ("resnet34", "resnet50", "wide_resnet28_10", "wide_resnet34_10", "efficientnet_b0")
deep_ones_slowly = pytest.mark.parametrize("name", slowly(NAMES, {*NAMES} - {*DEEP}))


def make(name, dtype="float32"):
    return BACKBONES[name].value(width=4, stem="cifar", dtype=dtype)


@functools.cache
def initial(name):
    """Random kernels, every vector 1 (a BatchNorm of those changes nothing): no minute spent compiling `init`."""
    shapes = jax.eval_shape(functools.partial(make(name).init, train=False), jax.random.key(1), IMAGES)
    he_normal = lambda shape: np.random.default_rng(2).normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
    return jax.tree.map(lambda a: jnp.asarray(he_normal(a.shape) if a.ndim > 1 else np.ones(a.shape), a.dtype), shapes)


@deep_ones_slowly
def test_evaluation_reads_each_image_by_itself(name):
    apply = jax.jit(functools.partial(make(name).apply, train=False))
    features = apply(initial(name), IMAGES)
    assert features.ndim == 2 and features.dtype == jnp.float32
    np.testing.assert_allclose(apply(initial(name), IMAGES.at[1:].set(0))[0], features[0], rtol=1e-5, atol=1e-6)
    assert np.std(features, axis=0).max() > 1e-3  # and does read them


@every_backbone
def test_training_uses_and_updates_the_statistics_of_the_batch(name):
    apply = functools.partial(make(name).apply, train=True, mutable=["batch_stats"])
    shapes = jax.eval_shape(apply, initial(name), IMAGES)[1]
    assert jax.tree.structure(shapes["batch_stats"]) == jax.tree.structure(initial(name)["batch_stats"])


@deep_ones_slowly
def test_gradients_reach_every_parameter_and_every_image(name):
    def loss(params, images):
        variables = {**initial(name), "params": params}
        features, _ = make(name).apply(variables, images, train=True, mutable=["batch_stats"])
        return jnp.sum(features**2)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(initial(name)["params"], IMAGES)
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in jax.tree.leaves(gradients))
    assert np.all(np.any(gradients[1] != 0, axis=(1, 2, 3)))


@every_backbone
def test_bfloat16_computes_in_bfloat16_and_stores_in_float32(name):
    shapes = jax.eval_shape(functools.partial(make(name, "bfloat16").init, train=False), jax.random.key(1), IMAGES)
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(shapes))
    program = jax.make_jaxpr(functools.partial(make(name, "bfloat16").apply, train=False))(initial(name), IMAGES)
    convolutions = [e for e in program.jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    assert program.out_avals[0].dtype == jnp.float32
    assert all(e.outvars[0].aval.dtype == jnp.bfloat16 for e in convolutions)
