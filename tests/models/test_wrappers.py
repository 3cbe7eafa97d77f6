"""Every registered wrapper against an oracle, and what it must keep of the classifiers it is made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import clead_jax.models  # noqa: F401
from clead_jax.core import sharding
from clead_jax.core.registry import WRAPPERS
from clead_jax.core.types import Classifier
from clead_jax.models.wrappers import unwrapped, wrap

X = np.random.default_rng(0).random((16, 4, 4, 1), np.float32)
KEY = jax.random.key(1)


def linear(seed, classes=3, **fields):
    """A classifier of 16 pixels."""
    weights = {"w": jnp.asarray(np.random.default_rng(seed).normal(size=(16, classes)), jnp.float32)}
    forward = lambda v, x: x.reshape(len(x), -1) @ v["w"]
    return Classifier(forward, weights, classes, (4, 4, 1), name=f"linear{seed}", **fields)


def wrapped(name, *classifiers, **settings):
    entry = WRAPPERS[name]
    return entry.value(classifiers, entry.config(**settings))


def logits(classifier, variables=None):
    variables = classifier.variables if variables is None else variables
    return jax.jit(classifier.forward)(variables, jnp.asarray(X), *([KEY] if classifier.randomized else []))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


PARTS = [np.asarray(logits(linear(seed))) for seed in (0, 1, 2)]
THREE = [linear(seed) for seed in (0, 1, 2)]
CASES = {
    "ensemble": (THREE, {}),
    "noise": (THREE[:1], {"std": 0.2}),
    "bfloat16": (THREE[:1], {}),
    "bit_depth": (THREE[:1], {}),
    "blur": (THREE[:1], {}),
    "median": (THREE[:1], {}),
    "total_variation": (THREE[:1], {}),
    "jpeg": (THREE[:1], {}),
    "resize_pad": (THREE[:1], {}),
}


def test_every_wrapper_has_a_case():
    assert set(CASES) == set(WRAPPERS)


def keep_the_contract(make, *parts):
    """Shapes, gradients for every image, weights that are arguments, no row that depends on others, devices."""
    whole, other = make(*parts), make(linear(9), *parts[1:])
    assert logits(whole).shape == (16, 3) and (whole.num_classes, whole.image_shape) == (3, (4, 4, 1))
    differentiated = whole.attack_forward or whole.forward
    key = [KEY] if whole.randomized else []
    loss = lambda x: jax.nn.log_softmax(differentiated(whole.variables, x, *key))[:, 0].sum()
    gradient = jax.jit(jax.grad(loss))(jnp.asarray(X))
    assert np.isfinite(gradient).all() and (np.abs(gradient).reshape(16, -1).max(1) > 0).all()
    assert whole.fingerprint == make(*parts).fingerprint != other.fingerprint
    np.testing.assert_array_equal(logits(whole, other.variables), logits(other))
    if whole.randomized:
        assert not np.array_equal(logits(whole), whole.forward(whole.variables, X, jax.random.key(2)))
    else:
        last = jax.jit(whole.forward)(whole.variables, jnp.asarray(X[:7:-1]))  # of half a batch, in another order
        np.testing.assert_allclose(last, logits(whole)[:7:-1], rtol=1e-5, atol=1e-6)
    mesh = sharding.data_mesh()
    spread = sharding.sharded(lambda v, x: whole.forward(v, x, *key), mesh, (P(), P("data")))
    np.testing.assert_allclose(spread(whole.variables, X), logits(whole), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_contract(name):
    parts, settings = CASES[name]
    keep_the_contract(lambda *parts: wrapped(name, *parts, **settings), *parts)


FAULTS = {
    "no gradient": lambda c: _with(c, forward=lambda v, x: c.forward(v, jax.lax.stop_gradient(x))),
    "sees the batch": lambda c: _with(c, forward=lambda v, x: c.forward(v, x - x.mean(0))),
    "sees the place": lambda c: _with(c, forward=lambda v, x: c.forward(v, x + jax.random.normal(KEY, x.shape))),
    "keeps its weights": lambda c: _with(c, forward=lambda v, x: c.forward(c.variables, x)),
    "hides its weights": lambda c: _with(c, forward=lambda v, x: c.forward(c.variables, x), variables=None),
    "draws nothing": lambda c: _with(c, forward=lambda v, x, key: c.forward(v, x), randomized=True),
    "loses the shape": lambda c: _with(c, image_shape=()),
    "gives one class": lambda c: _with(c, forward=lambda v, x: c.forward(v, x)[:, :1]),
    "is not finite": lambda c: _with(c, attack_forward=lambda v, x: jnp.sqrt(c.forward(v, 0 * x))),
}
_with = dataclasses.replace


@pytest.mark.parametrize("fault", FAULTS)
def test_the_contract_finds_a_planted_fault(fault):
    with pytest.raises(AssertionError):
        keep_the_contract(FAULTS[fault], linear(0))


def test_the_contract_is_kept_by_no_wrapper():
    keep_the_contract(lambda c: c, linear(0))


def test_ensembles_against_numpy():
    mean = np.log(np.mean([softmax(z) for z in PARTS], 0))
    np.testing.assert_allclose(logits(wrapped("ensemble", *THREE)), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits(wrapped("ensemble", *THREE, combine="logits")), np.mean(PARTS, 0), rtol=1e-5)
    votes = np.sum([np.eye(3)[z.argmax(-1)] for z in PARTS], 0)
    voting = wrapped("ensemble", *THREE, combine="vote")
    np.testing.assert_array_equal(logits(voting), votes)
    np.testing.assert_allclose(voting.attack_forward(voting.variables, X), mean, rtol=1e-4, atol=1e-5)


def test_an_ensemble_of_a_randomised_model_is_randomised():
    whole = wrapped("ensemble", wrapped("noise", THREE[0], std=0.5), THREE[1])
    assert whole.randomized
    assert not np.allclose(whole.forward(whole.variables, X, KEY), whole.forward(whole.variables, X, jax.random.key(2)))


def test_noise_has_the_size_it_says():
    whole, plain = wrapped("noise", THREE[0], std=0.2), np.asarray(logits(THREE[0]))
    draws = np.stack([whole.forward(whole.variables, X, jax.random.key(n)) for n in range(400)])
    expected = 0.2 * np.linalg.norm(np.asarray(THREE[0].variables["w"]), axis=0)
    np.testing.assert_allclose(draws.std(0).mean(0), expected, rtol=0.1)
    np.testing.assert_allclose(draws.mean(0), plain, atol=0.25)


def test_bfloat16_judges_in_float32():
    whole = wrapped("bfloat16", THREE[0])
    np.testing.assert_array_equal(logits(whole), logits(THREE[0]))
    attacked = whole.attack_forward(whole.variables, X)
    assert attacked.dtype == jnp.float32 and 0 < np.abs(attacked - PARTS[0]).max() < 0.1


def test_a_wrapper_by_its_name():
    named = wrap("ensemble(combine=logits)", *THREE)
    np.testing.assert_array_equal(logits(named), logits(wrapped("ensemble", *THREE, combine="logits")))
    assert named.name == "ensemble(linear0+linear1+linear2)"
    assert unwrapped("ensemble(a+jpeg(b,quality=5),combine=vote)") == (
        "ensemble(combine=vote)",
        ["a", "jpeg(b,quality=5)"],
    )
    assert unwrapped("module:name") is None


def test_what_attacks_see_is_told_through_all_wrappers():
    voting = wrap("ensemble(combine=vote)", wrap("jpeg(attacked=bare)", THREE[0]), THREE[1])
    said = wrap("noise", voting).metadata["attacks_see"]
    assert said == [
        "jpeg: images are made on the model without the filter",
        "ensemble: votes have no gradient, so attacks follow the mean of the probabilities",
    ]
    assert wrap("ensemble", *THREE).metadata["attacks_see"] == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: wrapped("ensemble", linear(0), linear(1, classes=4)), "differ in num_classes: 3 and 4"),
        (
            lambda: wrapped("ensemble", linear(0), combine="max"),
            "combine is 'max'; it can be probabilities",
        ),
        (lambda: wrapped("noise", *THREE), "noise wraps one classifier, not 3"),
        (lambda: wrapped("noise", THREE[0], std=0.0), "std must be positive"),
        (lambda: wrap("nose", THREE[0]), "unknown wrapper 'nose': did you mean 'noise'"),
        (lambda: wrap("noise(size=1)", THREE[0]), "wrapper 'noise' has no setting 'size'; it has std"),
        (lambda: wrap("jpeg", *THREE), "jpeg wraps one classifier, not 3"),
        (lambda: wrapped("noise", wrapped("noise", THREE[0])), "draws noise already"),
    ],
)
def test_what_cannot_be_wrapped(call, said):
    with pytest.raises(ValueError, match=said):
        call()
