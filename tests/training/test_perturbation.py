"""AWP against loops, and inside a step: the gradient of other weights moves the old ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_step_terms import CROSS_ENTROPY, IMAGES, INDEX, LABELS, NETWORK, PARTS, VARIABLES, by_hand, two_views

from clead_jax.training import state
from clead_jax.training.perturbation import perturbation
from clead_jax.training.step import make_step


def one_step(perturb, number=0):
    begun, rest = state.create(VARIABLES, PARTS, optax.sgd(0.5))
    begun = begun.replace(step=jnp.int32(number))
    batch = state.Batch(jnp.asarray(IMAGES)[INDEX], jnp.asarray(LABELS)[INDEX], INDEX)
    step = make_step(NETWORK, optax.sgd(0.5), two_views, {"loss": (1.0, CROSS_ENTROPY)}, perturb=perturb)
    return jax.jit(step)(begun, state.Frozen(rest), batch, jax.random.key(1))[0].params


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_moves_every_layer_by_its_own_length_along_the_gradient():
    rng = np.random.default_rng(0)
    w = {"kernel": rng.normal(size=(3, 4)), "deep": rng.normal(size=(2, 2, 3)), "bias": rng.normal(size=4)}
    g = {name: rng.normal(size=np.shape(value)) * 1e-6 for name, value in w.items()}
    as_float = lambda tree: {name: jnp.float32(value) for name, value in tree.items()}
    found = perturbation("awp(gamma=0.1)", 1)(lambda params: as_float(g), as_float(w), jnp.int32(0))
    for name in ("kernel", "deep"):
        length = lambda values: sum(value**2 for value in values.ravel()) ** 0.5
        expected = w[name] + 0.1 * length(w[name]) / length(g[name]) * g[name]
        np.testing.assert_allclose(found[name], expected, rtol=1e-4)
    np.testing.assert_array_equal(found["bias"], np.float32(w["bias"]))


def test_is_a_step_of_sgd_with_the_gradient_from_the_perturbed_weights():
    loss = lambda params: by_hand(params)[0]
    gradient = jax.grad(loss)(VARIABLES["params"])
    perturb = perturbation("awp(gamma=0.3)", 1)
    there = jax.grad(loss)(perturb(lambda params: gradient, VARIABLES["params"], jnp.int32(0)))
    expected = jax.tree.map(lambda w, g: w - 0.5 * g, VARIABLES["params"], there)
    for a, b in zip(leaves(one_step(perturb)), leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "step", "changes"),
    [("awp(gamma=0)", 0, False), ("awp", 0, True), ("awp(start=2)", 5, False), ("awp(start=2)", 6, True)],
)
def test_without_gamma_and_before_its_start_it_is_its_base_to_the_bit(text, step, changes):
    plain, found = leaves(one_step(None, step)), leaves(one_step(perturbation(text, 3), step))
    assert all(np.array_equal(a, b) for a, b in zip(plain, found, strict=True)) != changes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sam", "unknown perturbation 'sam'; known: awp"),
        ("awp(gamma=-1)", "gamma must not be negative"),
        ("awp(rho=1)", "perturbation 'awp' has no setting 'rho'; it has gamma, start"),
    ],
)
def test_what_is_no_perturbation(text, said):
    with pytest.raises(ValueError, match=said):
        perturbation(text, 1)
