"""The network: its tree of variables, normalisation inside, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.models import Network
from clead_jax.models.resnet import BasicBlock, ResNet

IMAGES = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
TINY = functools.partial(Network, "tiny", num_classes=5, width=4)


def init(network, images=IMAGES):
    return jax.jit(functools.partial(network.init, train=False))(jax.random.key(1), images)


def test_three_parts_and_their_shapes():
    network = TINY(projection_dim=6)
    variables = init(network)
    assert set(variables) == {"params", "batch_stats"} and set(variables["batch_stats"]) == {"backbone"}
    assert set(variables["params"]) == {"backbone", "projector", "head"}
    outputs = network.apply(variables, IMAGES, train=False)
    assert [(a.shape, a.dtype) for a in outputs] == [((4, n), jnp.float32) for n in (16, 6, 5)]


def test_each_part_can_be_run_alone():
    network = TINY()
    variables = init(network)
    features, projections, logits = network.apply(variables, IMAGES, train=False)
    apply = functools.partial(network.apply, variables)
    np.testing.assert_array_equal(apply(IMAGES, train=False, method="features"), features)
    np.testing.assert_array_equal(apply(features, method="project"), projections)
    np.testing.assert_array_equal(apply(features, method="classify"), logits)
    np.testing.assert_array_equal(apply(IMAGES, train=False, method="logits"), logits)
    np.testing.assert_array_equal(apply(IMAGES, train=False, method="embed"), projections)
    head, projector = variables["params"]["head"], variables["params"]["projector"]
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"], rtol=1e-5, atol=1e-6)
    hidden = np.maximum(features @ projector["Dense_0"]["kernel"] + projector["Dense_0"]["bias"], 0)
    expected = hidden @ projector["Dense_1"]["kernel"] + projector["Dense_1"]["bias"]
    np.testing.assert_allclose(projections, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden, expected", [(0, 16), (9, 9)])
def test_projection_hidden_0_means_the_feature_width(hidden, expected):
    shapes = jax.eval_shape(lambda: TINY(projection_hidden=hidden).init(jax.random.key(0), IMAGES, train=False))
    assert shapes["params"]["projector"]["Dense_0"]["kernel"].shape == (16, expected)


def test_normalisation_is_inside():
    mean, std = (0.1, 0.5, 0.7), (0.2, 0.3, 0.4)
    plain, normalising = TINY(mean=(0.0,), std=(1.0,)), TINY(mean=mean, std=std)
    variables = init(plain)
    outside = plain.apply(variables, (IMAGES - np.array(mean)) / np.array(std), train=False)
    inside = normalising.apply(variables, IMAGES, train=False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), inside, outside)


def test_bfloat16_is_close_and_leaves_float32_outside():
    exact, fast = TINY(), TINY(dtype="bfloat16")
    variables = init(exact)
    gradients = {}
    for network in (exact, fast):
        loss = lambda x, network=network: jnp.sum(network.apply(variables, x, train=False)[2] ** 2)
        gradients[network.dtype] = jax.jit(jax.grad(loss))(IMAGES)
    assert gradients["bfloat16"].dtype == jnp.float32
    a, b = (np.ravel(g) for g in gradients.values())
    assert 0.9 < a @ b / np.linalg.norm(a) / np.linalg.norm(b) < 1  # the same direction, not the same program


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19': did you mean 'resnet18'"),
        ({"stem": "svhn"}, "unknown stem 'svhn': known: cifar, imagenet"),
        ({"dtype": "float16"}, "unknown dtype 'float16': known: float32, bfloat16"),
        ({"mean": (0.5, 0.5)}, r"images of 3 channels need 1 or 3 means and positive stds, not mean=\(0.5, 0.5\)"),
        ({"std": (1.0, 0.0, 1.0)}, "images of 3 channels need 1 or 3 means and positive stds"),
    ],
)
def test_refuses_what_it_does_not_know(fields, message):
    network = Network(**{"backbone": "tiny", "num_classes": 5, "width": 4, **fields})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: network.init(jax.random.key(0), IMAGES, train=False))


def test_remat_keeps_the_gradient_and_little_for_it():
    """Kept from the forward pass, for the backward pass: without it every activation, with it those between blocks."""
    images, kept, gradients = jax.random.uniform(jax.random.key(0), (8, 6, 6, 3)), {}, {}
    networks = {wanted: ResNet(BasicBlock, (2,), width=2, remat=wanted) for wanted in (False, True)}
    variables = jax.jit(functools.partial(networks[False].init, train=False))(jax.random.key(1), images)
    for wanted, network in networks.items():
        run = lambda params, net=network: net.apply(
            {**variables, "params": params}, images, True, mutable="batch_stats"
        )
        residuals = jax.eval_shape(lambda params, run=run: jax.vjp(lambda p: run(p)[0], params)[1], variables["params"])
        kept[wanted] = sum(leaf.size for leaf in jax.tree.leaves(residuals))
        gradients[wanted] = jax.jit(jax.grad(lambda p, run=run: (run(p)[0] ** 2).sum()))(variables["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *gradients.values())
    assert kept[True] < 0.5 * kept[False]
