"""The evaluator on a linear model, whose robust accuracy is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax import attacks
from clead_jax.core.registry import ATTACKS
from clead_jax.evaluation.verify import Evaluator, NamedAttack

N, EPS = 37, 0.05


def problem():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.3, 0.7, (N, 4, 4, 1)).astype(np.float32)
    w = rng.normal(size=16).astype(np.float32)
    score = (images.reshape(N, -1) - 0.5) @ w
    labels = (score > 0).astype(np.int32)
    labels[:3] = 1 - labels[:3]  # wrong from the start: no attack may call them robust
    forward = lambda v, x: ((x.reshape(len(x), -1) - 0.5) @ v)[:, None] * jnp.array([-0.5, 0.5])
    robust = (np.abs(score) > EPS * np.abs(w).sum()) & (np.arange(N) >= 3)
    return forward, w, images, labels, robust


def pgd(**settings):
    entry = ATTACKS["pgd"]
    return NamedAttack(
        "pgd", entry.value, entry.info["objective"], entry.config(eps=EPS, step_size=EPS / 4, **settings)
    )


@pytest.mark.parametrize("batch_size", [8, 64])
def test_finds_exactly_the_examples_that_can_be_broken(batch_size):
    forward, w, images, labels, robust = problem()
    outcome = Evaluator(forward, batch_size).attack(w, images, labels, pgd(), key=jax.random.key(0), keep=5)
    np.testing.assert_array_equal(outcome.correct, robust)
    assert 0 < robust.sum() < N - 3
    assert outcome.adversarial.shape == (5, 4, 4, 1) and (outcome.distance <= EPS + 1e-5).all()


def test_batches_change_nothing():
    forward, w, images, labels, _ = problem()
    few = {"key": jax.random.key(0), "keep": N}
    whole = Evaluator(forward, 64).attack(w, images, labels, pgd(steps=2), **few)
    part = Evaluator(forward, 8).attack(w, images[20:], labels[20:], pgd(steps=2), index=np.arange(20, N), **few)
    np.testing.assert_allclose(part.adversarial, whole.adversarial[20:], atol=1e-6)


def test_an_attack_that_leaves_its_ball_is_an_error():
    forward, w, images, labels, _ = problem()
    cheat = attacks.Iterative(*pgd().attack)._replace(result=lambda state: state.x + 3 * EPS)
    with pytest.raises(RuntimeError, match="left its ball"):
        Evaluator(forward, 64).attack(w, images, labels, pgd()._replace(attack=cheat), key=jax.random.key(0))


def test_uint8_and_float_images_are_the_same_thing():
    forward, w, images, _, _ = problem()
    stored = (images * 255).round().astype(np.uint8)
    evaluator = Evaluator(forward, 64)
    np.testing.assert_array_equal(evaluator.predict(w, stored), evaluator.predict(w, stored.astype(np.float32) / 255))


def test_another_model_does_not_compile_again():
    forward, w, images, labels, _ = problem()
    traced = []

    def counting(v, x):
        traced.append(1)
        return forward(v, x)

    evaluator = Evaluator(counting, 64)
    evaluator.attack(w, images, labels, pgd(), key=jax.random.key(0))
    before = len(traced)
    other = pgd()._replace(cfg=ATTACKS["pgd"].config(eps=EPS / 2, step_size=EPS / 8))
    evaluator.attack(-w, images, labels, other, key=jax.random.key(1))
    assert len(traced) == before
