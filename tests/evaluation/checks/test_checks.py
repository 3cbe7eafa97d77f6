"""Every check on a model of which the answer is known: once it has to warn, once to pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weak_inputs
import weak_networks
from check_contexts import EPS, N, blind, context_of, linear, linear_context

from clead_jax.core.types import Classifier, Examples
from clead_jax.evaluation.checks import attack_strength, binarization, gradient_masking, inputs, outputs, plausibility
from clead_jax.evaluation.checks.context import CheckContext
from clead_jax.evaluation.checks.run import CHECKS, run_checks
from clead_jax.evaluation.classifier import compiled

FEEBLE = {"step_size": EPS / 100, "random_start": False}
TIMID = {"steps": 2, "step_size": EPS / 50}
NOISY_SIZE = (0.02, 0.1)  # scores that random points of the ball reach now and then


def gated(v, x):
    """`linear` with a gradient, or without: the variables say."""
    return jnp.where(v["open"], linear(v["w"], x), blind(v["w"], x))


def gated_context(mine, others):
    w = linear_context().model.variables
    variables = lambda opened: {"w": w, "open": np.array(opened)}
    return linear_context(gated, variables=variables(mine), undefended=variables(others))


def recorded(robust, n=1000, **more):
    """As if `n` examples had been attacked, and this share were still right."""
    records = {"clean": np.ones(n, bool), "autoattack": np.arange(n) < robust * n}
    return linear_context(records=records, **more)


def above_clean(where, gained):
    """As if so many more of 1000 images had been right under an attack, of those recorded or on transferred images."""
    right = lambda count: np.arange(1000) < count
    records = {"clean": right(90), "autoattack": right(50)}
    return linear_context(**{"records": records, where: {**records, "pgd": right(90 + gained)}})


class Forgetful(CheckContext):
    """Its variables change as it is used."""

    def gradient(self, images, draw=0):
        object.__setattr__(self.model, "variables", self.model.variables + 1)
        return images


def forgetful():
    plain = linear_context()
    return Forgetful(**{f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)})


IMAGES = linear_context().images
TO_NAN = lambda v, x: jnp.log(-1 - x.sum((1, 2, 3)))[:, None] + linear(v, x)


def half_hidden(forward):
    """Half of the score has no gradient, and another image half of it: what is left leads uphill."""
    return lambda v, x: 0.5 * forward(v, x) + forward(v[::-1], jax.lax.stop_gradient(x))


def dithered(forward):
    """A weak way for gradients beside a rounded one with random thresholds, declared as random."""

    def drawn(v, x, key):
        noise = jax.random.uniform(key, x.shape)
        return 0.2 * forward(v, x) + forward(v[::-1], jnp.floor(8 * x + noise) / 8)

    return drawn


def ten_directions(defence=lambda forward: forward, **more):
    """A linear model of ten classes: which of them leads changes within a step, its gradient is exact all the same."""
    context = linear_context()
    v = np.random.default_rng(1).normal(size=(64, 10)).astype(np.float32)
    forward = lambda v, x: (x.reshape(len(x), -1) - 0.5) @ v
    labels = np.asarray(forward(v, context.images)).argmax(-1)
    return context_of(defence(forward), v, context.images, labels, **more)


def noisy(forward):
    """An honest model that draws noise."""
    return lambda v, x, key: forward(v, x + 0.1 * jax.random.normal(key, x.shape))


def late_units():
    """An honest model whose features have units that are 0 but for a few points at the edge of the ball."""
    v = np.random.default_rng(1).normal(size=(64, 10)).astype(np.float32)
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (64, 256)).astype(np.float32)

    def features(v, x):
        flat = x.reshape(len(x), -1) - 0.5
        return jnp.concatenate([flat @ v, 10 * jax.nn.relu(flat @ signs / (64 * EPS) - 0.4)], -1)

    images, labels = np.full((N, 8, 8, 1), 0.5, np.float32), np.zeros(N, np.int32)
    return context_of(lambda v, x: features(v, x)[:, :10], v, images, labels, features=features)


LOUD = [
    (inputs.images_range, lambda: linear_context(images=IMAGES * 255), "fail"),
    (inputs.images_range, lambda: linear_context(images=IMAGES / 255), "fail"),
    (inputs.looks_normalised, lambda: linear_context(images=(IMAGES - 0.5) * 4), "fail"),
    (inputs.ball, lambda: linear_context(images=IMAGES * 2 - 1), "fail"),
    (inputs.ball_uint8, lambda: linear_context(images=IMAGES * 2 - 1), "fail"),
    (
        inputs.ball_uint8,
        lambda: linear_context(lambda v, x: linear(v, x) * 1.0, eps=0.0005, reach=(0.001, 0.008)),
        "warn",
    ),
    (outputs.nan_outputs, lambda: linear_context(TO_NAN), "fail"),
    (outputs.probabilities_output, lambda: linear_context(weak_networks.probabilities(linear)), "fail"),
    (outputs.probabilities_output, lambda: linear_context(lambda v, x: jax.nn.sigmoid(linear(v, x) + 1)), "warn"),
    (outputs.deterministic, lambda: linear_context(weak_inputs.noise_of_python(linear)), "fail"),
    (outputs.deterministic, lambda: linear_context(weak_inputs.noise_of_content(linear)), "fail"),
    (outputs.deterministic, lambda: linear_context(lambda v, x, key: linear(v, x), randomized=True), "warn"),
    (outputs.batch_statistics, forgetful, "fail"),
    (outputs.batch_composition, lambda: linear_context(weak_inputs.batch_normalised(linear)), "fail"),
    (outputs.batch_composition, lambda: linear_context(weak_inputs.noise_by_place(linear)), "fail"),
    (gradient_masking.gradient_zero_or_nan, lambda: linear_context(blind), "fail"),
    (gradient_masking.gradient_zero_or_nan, lambda: linear_context(weak_networks.scaled(linear)), "fail"),
    (gradient_masking.gradient_direction, lambda: linear_context(blind), "fail"),
    (gradient_masking.gradient_direction, lambda: linear_context(weak_networks.rippled(linear)), "fail"),
    (gradient_masking.gradient_foretells, lambda: linear_context(blind), "fail"),
    (gradient_masking.gradient_foretells, lambda: linear_context(half_hidden(linear)), "fail"),
    (gradient_masking.gradient_foretells, lambda: linear_context(dithered(linear), randomized=True), "fail"),
    (attack_strength.iterative_vs_one_step, lambda: linear_context(settings=TIMID), "fail"),
    (attack_strength.steps_enough, lambda: linear_context(settings=TIMID | {"step_size": EPS / 4}), "fail"),
    (attack_strength.restarts_enough, lambda: linear_context(blind, reach=NOISY_SIZE), "fail"),
    (attack_strength.loss_still_rising, lambda: linear_context(settings=TIMID), "fail"),
    (attack_strength.noise_vs_gradient, lambda: linear_context(blind, reach=NOISY_SIZE), "fail"),
    (attack_strength.blackbox_vs_whitebox, lambda: linear_context(blind), "fail"),
    (attack_strength.blackbox_vs_whitebox, lambda: gated_context(False, True), "fail"),
    (attack_strength.falls_to_chance, lambda: linear_context(blind), "fail"),
    (attack_strength.undefended_falls, lambda: gated_context(True, False), "fail"),
    (
        attack_strength.undefended_falls,
        lambda: linear_context(eps=EPS / 50, undefended=linear_context().model.variables),
        "warn",
    ),
    (binarization.finds_planted_points, lambda: linear_context(blind), "fail"),
    (binarization.finds_planted_points, lambda: ten_directions(weak_networks.flipped_gradient), "fail"),
    (binarization.finds_planted_points, lambda: ten_directions(lambda f: f, settings={"steps": 1, **FEEBLE}), "fail"),
    (plausibility.robust_above_clean, lambda: above_clean("records", 400), "fail"),
    (plausibility.robust_above_clean, lambda: above_clean("transferred", 400), "fail"),
    (plausibility.robust_above_clean, lambda: above_clean("transferred", 1), "warn"),
    (plausibility.only_training_attacks, lambda: recorded(0.5, training_attacks=("autoattack",)), "warn"),
    (plausibility.sample_size, lambda: recorded(0.5, n=999), "warn"),
    (plausibility.extraordinary, lambda: recorded(0.9, published=("cifar10", "resnet18")), "warn"),
]
QUIET = [
    (binarization.finds_planted_points, ten_directions),
    (binarization.finds_planted_points, late_units),
    (binarization.finds_planted_points, lambda: ten_directions(features=lambda v, x: x.reshape(len(x), -1) @ v[:, :5])),
    (plausibility.robust_above_clean, lambda: above_clean("transferred", 0)),
    (attack_strength.loss_still_rising, lambda: linear_context(reach=(1.2, 1.6))),
    (gradient_masking.gradient_foretells, ten_directions),
    (gradient_masking.gradient_foretells, lambda: linear_context(noisy(linear), randomized=True)),
    (attack_strength.restarts_enough, lambda: linear_context(noisy(linear), randomized=True, reach=(0.95, 1.3))),
    (attack_strength.steps_enough, lambda: linear_context(noisy(linear), randomized=True, reach=(0.95, 1.3))),
    (attack_strength.undefended_falls, lambda: gated_context(True, True)),
    (plausibility.only_training_attacks, lambda: recorded(0.5, training_attacks=("pgd",))),
    (plausibility.sample_size, lambda: recorded(0.5)),
    (plausibility.extraordinary, lambda: recorded(0.5, published=("cifar10", "resnet18"), eps=8 / 255)),
    (outputs.deterministic, lambda: linear_context(weak_inputs.resized_and_padded(linear), randomized=True)),
]


@pytest.mark.parametrize(("question", "make", "status"), LOUD, ids=lambda v: getattr(v, "__name__", ""))
def test_speaks_up(question, make, status):
    found = question(make())
    assert found["status"] == status, found
    assert found["name"] == question.__name__ and found["hint"]


@pytest.mark.parametrize(("question", "make"), QUIET, ids=lambda v: getattr(v, "__name__", ""))
def test_is_quiet(question, make):
    assert question(make())["status"] == "ok"


def test_a_linear_model_passes_every_check_that_applies():
    status = {c["name"]: c["status"] for c in run_checks(linear_context(records={"clean": np.ones(1000, bool)}))}
    skipped = {
        "undefended_falls",
        "extraordinary",
        "robust_above_clean",
        "loss_still_rising",
    }  # no other model, no data set, no attack recorded, nothing is left
    assert status.pop("only_training_attacks") == "warn"  # no attack was recorded
    assert {name for name, s in status.items() if s == "skipped"} == skipped
    assert {s for name, s in status.items() if name not in skipped} == {"ok"}


def test_every_check_has_a_case_that_it_speaks_up_for_and_one_that_it_passes():
    passed = {c["name"] for c in run_checks(linear_context()) if c["status"] == "ok"}
    assert {question for question, *_ in LOUD} == set(CHECKS)
    assert passed | {question.__name__ for question, _ in QUIET} == {check.__name__ for check in CHECKS}


def test_the_planted_points_are_told_with_what_they_lie_behind():
    behind = lambda **more: binarization.finds_planted_points(ten_directions(**more))["value"]
    assert behind()["features"] == "logits" and behind()["random"] < 0.5
    assert behind(features=lambda v, x: x.reshape(len(x), -1) @ v)["features"] == "penultimate layer"


def test_nothing_is_planted_where_noise_is_drawn_or_features_are_flat():
    flat = lambda v, x: jnp.array([1.0, 0.0]) + 0 * linear(v, x)
    for context in (linear_context(noisy(linear), randomized=True), linear_context(flat), linear_context(eps=0.0)):
        assert binarization.finds_planted_points(context)["status"] == "skipped"


def test_names_are_those_of_the_functions_and_every_docstring_tells():
    assert [c["name"] for c in run_checks(recorded(0.5))] == [q.__name__ for q in CHECKS]
    assert all(len(q.__doc__.split("\n\n")) >= 2 for q in CHECKS)  # what is asked, and what it would have caught


def test_what_only_square_broke_counts_where_it_is_recorded():
    n = 1000
    correct = lambda k: np.arange(n) < k
    records = {"clean": correct(n), "apgd_ce": correct(600), "apgd_t": correct(580)}
    ask = lambda k: attack_strength.blackbox_vs_whitebox(linear_context(records={**records, "square": correct(k)}))
    assert ask(575)["status"] == "ok" and ask(500)["status"] == "fail"
    assert ask(500)["value"]["square"]["found"] == 80


def test_what_follows_square_in_a_cascade_does_not_hide_what_square_broke():
    correct = lambda k: np.arange(1000) < k
    records = {"clean": correct(900), "apgd_ce": correct(600), "square": correct(400), "apgd_t": correct(390)}
    assert attack_strength.blackbox_vs_whitebox(linear_context(records=records))["value"]["square"]["found"] == 200


def test_the_logits_of_a_single_image_are_no_probabilities():
    for logits, status in (((3.0, 0.0, 1.0, 0.0), "ok"), ((0.7, 0.1, 0.1, 0.1), "fail")):
        model = lambda v, x, logits=logits: jnp.tile(jnp.array(logits), (len(x), 1)) + 0 * x.sum()
        context = linear_context(model)
        whole = context.examples
        one = dataclasses.replace(context, examples=Examples(whole.images[:1], whole.labels[:1], whole.index[:1]))
        assert outputs.probabilities_output(one)["status"] == status


@pytest.mark.parametrize(("logits", "status"), [((3.0, 0.5), "ok"), ((2.0, 5.0), "ok"), ((0.75, 0.25), "fail")])
def test_copies_of_one_image_are_no_proof_of_probabilities(logits, status):
    """Whatever the model, their outputs have one sum."""
    context = linear_context(lambda v, x: jnp.array(logits) * (1 + 1e-7 * x.sum((1, 2))))
    copies = Examples(np.repeat(context.images[:1], 64, 0), np.repeat(context.labels[:1], 64), np.arange(64))
    assert outputs.probabilities_output(dataclasses.replace(context, examples=copies))["status"] == status


def test_votes_are_no_probabilities_where_attacks_follow_something_else():
    votes, w = weak_networks.decided(linear), linear_context().model.variables
    for attacked, status in ((None, "fail"), (linear, "ok")):
        model = compiled(Classifier(votes, w, attack_forward=attacked), batch_size=64)
        assert outputs.probabilities_output(dataclasses.replace(linear_context(), model=model))["status"] == status


def test_a_model_that_cannot_be_asked_fails_and_the_rest_is_heard():
    def stubborn(v, x):
        return jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, 1.0 * c[1]), (0, linear(v, x)))[1]

    found = {c["name"]: c for c in run_checks(linear_context(stubborn))}
    assert found["gradient_zero_or_nan"]["status"] == "fail" and "ValueError" in found["gradient_zero_or_nan"]["hint"]
    assert found["images_range"]["status"] == "ok"


def test_a_published_figure_at_a_larger_eps_is_no_comparison():
    tiny = plausibility.extraordinary(recorded(0.9, published=("cifar10", "resnet18"), eps=1 / 255))
    other = plausibility.extraordinary(recorded(0.9, published=("digits", "tiny")))
    assert (tiny["status"], other["status"]) == ("skipped", "skipped")


def test_the_architecture_counts_where_a_figure_of_it_is_known():
    ask = lambda name: plausibility.extraordinary(recorded(0.67, published=("cifar10", name), eps=8 / 255))
    assert ask("resnet18")["status"] == "warn" and ask("some_other_net")["status"] == "ok"


@pytest.mark.slow
def test_other_norms():
    for norm, eps in (("l2", 0.4), ("l1", 2.0)):
        found = run_checks(linear_context(norm=norm, eps=eps))
        assert not [c for c in found if c["status"] == "fail"], norm
        masked = linear_context(blind, norm=norm, eps=eps)
        assert gradient_masking.gradient_direction(masked)["status"] == "fail"
        assert attack_strength.blackbox_vs_whitebox(masked)["status"] == "fail"
