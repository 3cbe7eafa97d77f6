"""Compiled classifiers: predictions, what is compiled how often, noise, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Classifier, Examples, NamedAttack
from clead_jax.evaluation import classifier as classifiers
from clead_jax.evaluation.classifier import compiled
from clead_jax.evaluation.runner import run_attacks

RNG = np.random.default_rng(0)
IMAGES, W = RNG.uniform(0.3, 0.7, (37, 4, 4, 1)).astype(np.float32), RNG.normal(size=(16, 3)).astype(np.float32)
LOGITS = (IMAGES.reshape(37, -1) - 0.5) @ W


def linear(v, x):
    return (x.reshape(len(x), -1) - 0.5) @ v


def attacked(model, eps=0.05):
    entry = ATTACKS["pgd"]
    named = NamedAttack("pgd", entry.value, entry.info["objective"], entry.config(eps=eps, step_size=eps / 4), eps)
    examples = Examples(IMAGES, LOGITS.argmax(-1).astype(np.int32), np.arange(37))
    return run_attacks(model, examples, [named], key=jax.random.key(0), num_classes=3)


@pytest.mark.parametrize("batch_size", [8, 16, 64])
def test_no_image_is_dropped_by_batches(batch_size):
    model = compiled(Classifier(linear, W), batch_size=batch_size)
    np.testing.assert_allclose(model.logits(IMAGES), LOGITS, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.predict(IMAGES), LOGITS.argmax(-1))


def test_uint8_and_float_images_are_the_same_thing():
    stored, model = (IMAGES * 255).round().astype(np.uint8), compiled(Classifier(linear, W))
    np.testing.assert_array_equal(model.predict(stored), model.predict(stored.astype(np.float32) / 255))


def test_nan_is_no_class():
    model = compiled(Classifier(lambda v, x: jnp.where(x.mean() > 2, linear(v, x), jnp.nan), W))
    assert (model.predict(IMAGES) == -1).all()


def test_the_gradient_is_that_of_the_sum():
    model, labels = compiled(Classifier(linear, W), batch_size=16), LOGITS.argmax(-1)
    found = model.gradient(ATTACKS["cw"].info["objective"], IMAGES, labels, jax.random.key(0))
    second = np.argsort(LOGITS, axis=1)[:, -2]
    expected = (W.T[second] - W.T[labels]).reshape(37, 4, 4, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def counted(traced):
    def forward(v, x):
        traced.append(len(x))
        return linear(v, x)

    return forward


def test_checkpoints_share_their_programs():
    traced = []
    forward = counted(traced)
    attacked(compiled(Classifier(forward, W, image_shape=IMAGES.shape[1:]), batch_size=64))
    before = len(traced)
    attacked(compiled(Classifier(forward, -W, image_shape=IMAGES.shape[1:]), batch_size=64), eps=0.02)
    assert len(traced) == before + 2  # to see whether it, and its gradient, are still the same


def test_weights_held_by_the_forward_itself_are_compiled_anew():
    held = {"w": W}
    model = lambda v, x: linear(jnp.asarray(held["w"]), x)
    first = compiled(Classifier(model)).predict(IMAGES)
    held["w"] = -W
    assert (compiled(Classifier(model)).predict(IMAGES) != first).any()


def test_a_randomised_model_answers_by_its_mean_probability():
    noisy = lambda v, x, key: linear(v, x) + 3 * jax.random.normal(key, (len(x), 3))
    model, key = compiled(Classifier(noisy, W, randomized=True), batch_size=40), jax.random.key(5)
    padded = np.concatenate([IMAGES, np.repeat(IMAGES[:1], 3, 0)])
    draws = [noisy(W, padded, jax.random.fold_in(key, n)) for n in range(classifiers.DRAWS)]
    expected = np.mean([jax.nn.softmax(z) for z in draws], 0).argmax(-1)[:37]
    np.testing.assert_array_equal(model.predict(IMAGES, key), expected)


def test_bfloat16_is_what_attacks_differentiate():
    half = classifiers.in_bfloat16(linear)
    seen = half(W, jnp.asarray(IMAGES))
    assert seen.dtype == jnp.bfloat16
    model = compiled(Classifier(linear, W, attack_forward=half))
    np.testing.assert_allclose(model.logits(IMAGES), LOGITS, rtol=1e-4, atol=1e-5)
    logits = model.programs.attacked_logits(model.variables, IMAGES, jax.random.key(0))
    assert logits.dtype == jnp.float32 and 1e-5 < np.abs(logits - LOGITS).max() < 0.1


def test_unpacking_and_fingerprints():
    model = Classifier(linear, {"w": W})
    forward, variables = model
    assert forward is linear and variables["w"] is W
    changed = W.copy()
    changed.view(np.uint32)[0, 0] ^= 1  # the lowest bit of one weight
    assert Classifier(linear, {"w": changed}).fingerprint != model.fingerprint
    assert Classifier(linear, {"w": W.copy()}).fingerprint == model.fingerprint
    np.testing.assert_allclose(Classifier(linear, W)(IMAGES), LOGITS, rtol=1e-4, atol=1e-5)
