"""Robust accuracy over eps from one run of a minimal-norm attack."""

import pathlib
from functools import partial

import attack_nets
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax import data
from clead_jax.attacks.parse import attack_at, named_attack
from clead_jax.core.types import Classifier, Examples, ThreatModel
from clead_jax.evaluation.classifier import compiled
from clead_jax.evaluation.measurements import measure
from clead_jax.evaluation.plan import Plan, Subject
from clead_jax.results.store import Store

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "digits-net.npz"
FAR = {"linf": 1.0, "l2": 1e6, "l1": 1e6}


def curves(forward, variables, examples, norm, radii, *attacks):
    """The curve of every attack, [radii], and its plan."""
    model = compiled(Classifier(forward, variables, image_shape=examples.images.shape[1:]), batch_size=64)
    plan = partial(Plan, ThreatModel(norm, radii[-1]), num_classes=10, checks=False, curve=radii, curve_examples=10**6)
    for attack in attacks:
        store, made = Store({}, examples.index, examples.labels), plan(curve_attack=attack)
        assert measure(made, [Subject("model", model, {})], examples, store)
        assert store.results["curves"]["attack"] == attack.name
        yield np.array(store.results["curves"]["accuracy"]["model"]), made.work(1)


def minimal(text, norm):
    return named_attack(text, {"norm": norm, "eps": FAR[norm]}, {})


def test_of_a_linear_model_it_is_exact():
    rng = np.random.default_rng(0)
    images, w = rng.uniform(0.4, 0.6, (32, 4, 4, 1)).astype(np.float32), rng.normal(size=(16, 2)).astype(np.float32)
    gap = (images.reshape(32, -1) - 0.5) @ (w[:, 1] - w[:, 0])
    labels = (gap > 0).astype(np.int32)
    labels[:4] = 1 - labels[:4]  # wrong at any radius
    true = np.where(np.arange(32) < 4, 0, np.abs(gap) / np.linalg.norm(w[:, 1] - w[:, 0]))
    radii = (0.0, *(float(r) for r in np.quantile(true, [0.3, 0.5, 0.8]) + 1e-3), 1.0)
    examples = Examples(images, labels, np.arange(32))
    assert np.abs(true[:, None] - np.array(radii[1:])).min() > 1e-4  # no image is at the edge
    forward = lambda v, x: (x.reshape(len(x), -1) - 0.5) @ v
    for found, work in curves(
        forward, jnp.asarray(w), examples, "l2", radii, minimal("fmn", "l2"), minimal("ddn", "l2")
    ):
        np.testing.assert_allclose(found, [(true > radius).mean() for radius in radii])
        assert work in (300, 301)  # one run, not one for each radius


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_on_a_trained_net_it_is_not_above_pgd(norm):
    with np.load(FIXTURE) as stored:
        weights = {key: stored[key] for key in stored.files if not key.startswith("standard")}
    test = data.load("digits").test
    examples = Examples(test.images[:128], test.labels[:128], test.index[:128])
    radii = {"linf": (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3), "l2": (0.0, 0.15, 0.3, 0.6, 0.9, 1.5)}[norm]
    attacks = minimal("fmn", norm), attack_at("pgd(steps=40)", norm, radii[-1])
    (fmn, _), (pgd, _) = curves(attack_nets.convolutions, weights, examples, norm, radii, *attacks)
    assert fmn[0] == pgd[0] > 0.9 and (np.diff(fmn) <= 0).all() and fmn[-1] < 0.1
    assert (fmn <= pgd + 0.01).all()
