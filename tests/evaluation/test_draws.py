"""Randomised models: fresh draws beside the verdict, from audits to the report."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clead_jax
from clead_jax.core import numerics
from clead_jax.core.types import Classifier
from clead_jax.evaluation.classifier import compiled
from clead_jax.evaluation.draws import FRESH, fresh_draws
from clead_jax.reporting import tables
from clead_jax.results import forms
from clead_jax.results.consistency import contradictions


def coin(variables, x, key):
    """Right (class 0) for white images; for others by a coin that all of them share."""
    right = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
    return jnp.where(x.mean((1, 2, 3)) > 0.9, 1.0, right)[:, None] * jnp.array([1.0, -1.0])


def test_the_mean_and_the_worst_of_draws():
    images = np.repeat(np.array([1.0, 0.5], np.float32), 8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.float32)
    model = compiled(Classifier(coin, randomized=True), batch_size=16)
    found = fresh_draws(model, images, np.zeros(16, np.int32), numerics.key(0))
    heads = 2 * found["mean"] - 1  # of the second half of the images the share that was right
    assert found["worst"] == 0.5 and 0 < heads < 1 and heads * FRESH == pytest.approx(round(heads * FRESH))
    broken = compiled(Classifier(lambda v, x, key: coin(v, x, key) / 0, randomized=True), batch_size=16)
    assert fresh_draws(broken, images, np.zeros(16, np.int32), numerics.key(0))["mean"] == 0.0


def swaying(x, key):
    """Brighter than grey or not, judged with noise."""
    score = x.mean((1, 2, 3)) - 0.5 + 0.1 * jax.random.normal(key, x.shape[:1])
    return 40 * score[:, None] * jnp.array([-0.5, 0.5])


def audited(**more):
    grey = np.linspace(0.3, 0.7, 32).astype(np.float32)
    images, labels = grey[:, None, None, None] * np.ones((1, 4, 4, 1), np.float32), (grey > 0.5).astype(np.int32)
    asked = {"attacks": "apgd_ce(steps=4),autoattack(attacks=pgd(steps=4))", "checks": False, "batch_size": 32}
    return clead_jax.audit(swaying, images, labels, eps=0.1, randomized=True, **asked, **more), images


def test_an_audit_of_a_randomised_model_has_them_side_by_side():
    result, images = audited(keep_images=True)
    assert set(result.draws) == {"clean", "apgd_ce(steps=4)", "autoattack"}
    for name, found in result.draws.items():
        assert found["worst"] <= result.accuracy[name] + 0.1 and found["worst"] < found["mean"]
        assert f"mean {100 * found['mean']:.1f}, worst of {FRESH} {100 * found['worst']:.1f}" in str(result)
    moved = np.abs(result.adversarial["autoattack"] - images).max((1, 2, 3))
    survivors = result.correct["autoattack"]
    assert survivors.any() and (moved[survivors] > 0.05).all()  # another draw may go wrong there
    forms.check(result.results["models"]["model"]["draws"], forms.RESULTS["models"][str]["draws?"])


def test_the_report_shows_them_and_refuses_what_cannot_be():
    draws = {"pgd": {"n": 10, "mean": 0.5, "worst": 0.25}}
    model = {"accuracy": {"clean": 1.0, "pgd": 0.5}, "draws": draws, "checkpoint": {}}
    results = {"models": {"model": model}, "attacks": {}, "dataset": {"num_examples": 4}, "protocols": {}}
    (table,) = tables.draws(results)
    assert table.rows == [["PGD: model", "50.0", "25.0", "10"]]
    assert not tables.draws({**results, "models": {"model": {"accuracy": {}}}})
    assert not list(contradictions(results, None))
    draws["pgd"]["worst"] = 0.75
    assert list(contradictions(results, None)) == [("model/pgd", "more images are right in every draw than on average")]
